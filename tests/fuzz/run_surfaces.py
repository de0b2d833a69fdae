"""Recipes and settings, and the files of runs: journals, reports, training states."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from fcam_zoo._catalog import RECIPES
from fcam_zoo.benchmark import Report, compare, evaluate, read_reports, write_html
from fcam_zoo.benchmark.plots import activations, curves
from fcam_zoo.benchmark.report import metrics_table
from fcam_zoo.benchmark.report_folder import write_reports
from fcam_zoo.cli import build_parser
from fcam_zoo.cli.train import settings_of
from fcam_zoo.labelling import LabelOptions, label_images
from fcam_zoo.labelling import run as label_run
from fcam_zoo.labelling.journal import seal, unseal
from fcam_zoo.train import TrainConfig, recipe_names
from fcam_zoo.train.checkpoint import Progress, load_state, save_state
from fcam_zoo.train.records import EpochMetrics
from fcam_zoo.train.sweep import parse_sweeps, plan_runs

from .data_surfaces import IDS, SIDE, _Boxes, write_images
from .model_surfaces import with_header
from .mutations import (
    TOKENS,
    Edits,
    edits_of,
    floats,
    integers,
    mutated_bytes,
    mutated_file,
    mutated_json,
    mutated_tree,
    str_of,
    texts,
    trees,
)
from .surface import Surface, small_model


class Recipe(Surface):
    """Recipes in YAML or JSON."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        packaged = (RECIPES / f'{recipe_names()[0]}.yaml').read_text(encoding='utf-8')
        values = TrainConfig().to_dict()
        plain = '\n'.join(f'{k}: {json.dumps(v)}' for k, v in values.items() if not isinstance(v, dict))
        self.valid = [packaged.encode(), plain.encode(), json.dumps(values).encode()]
        self.inputs = st.one_of(
            mutated_file(packaged, ': '),
            mutated_file(plain, ': '),
            mutated_json(values),
            st.sampled_from(TOKENS).map(lambda token: f'seed: {token}'.encode()),
        )

    def try_input(self, value: bytes) -> None:
        path = self.folder / 'recipe.yaml'
        path.write_bytes(value)
        TrainConfig.from_file(path).flat()


class Settings(Surface):
    """`--set` and `--sweep`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.parser = build_parser('train')
        places = sorted(TrainConfig().flat())
        place = st.sampled_from([*places, 'decoder', 'classifier', 'background_fraction', 'a.b.c', '.', '']) | texts
        value = st.one_of(
            integers.map(str_of), floats.map(str), texts, st.sampled_from(TOKENS), trees.map(lambda t: _dumps(t))
        )
        values = st.lists(value, max_size=3).map(','.join)
        text = st.builds('{}={}'.format, place, values) | texts
        self.valid = [('--set', 'decoder.lr=0.1'), ('--sweep', 'seed=1,2'), ('--sweep', 'background_fraction')]
        self.inputs = st.tuples(st.sampled_from(['--set', '--sweep']), text)

    def try_input(self, value: tuple[str, str]) -> None:
        option, text = value
        # The recipe of a training without a teacher, fine_tune, refuses the settings of seeds.
        args = self.parser.parse_args(['train', 'data', '-o', 'run', '--teacher', 'layercam', f'{option}={text}'])
        config = settings_of(args)
        plan_runs(config, parse_sweeps(args.sweep))


def _dumps(tree: Any) -> str:
    try:
        return json.dumps(tree)
    except ValueError:
        return '9' * 5000


def _sealed(part: Any) -> Any:
    """Add a valid checksum where the part can have one: JSON cannot hold NaN."""
    try:
        return seal(part) if isinstance(part, (dict, list)) else part
    except ValueError:
        return part


class Journal(Surface):
    """The journal of an unfinished run of `fcam-zoo predict`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        write_images(folder / 'images')
        (folder / 'images' / IDS[2]).write_bytes(b'no image')
        self.output = folder / 'out'
        self.options = {'formats': ('csv',), 'batch_size': 1, 'sizes': (32,)}
        self._interrupt()
        self.path = next(path for path in self.output.rglob('journal*') if path.is_file())
        self.saved = folder / 'saved'
        shutil.copytree(self.output, self.saved)
        text = self.path.read_text()
        lines = [json.loads(line) for line in text.splitlines()]

        def join(tree: Any) -> bytes:
            parts = tree if isinstance(tree, list) else [tree]
            return ''.join(json.dumps(part) + '\n' for part in parts).encode()

        def join_sealed(tree: Any) -> bytes:
            """Join records with the original settings, and valid checksums."""
            parts = [unseal(lines[0]), *(tree if isinstance(tree, list) else [tree])]
            return join([_sealed(part) for part in parts])

        records = mutated_tree([unseal(line) for line in lines[1:]]).map(join_sealed)
        self.valid = [text.encode()]
        self.inputs = mutated_file(text) | mutated_tree(lines).map(join) | records | mutated_bytes(text.encode())

    def _interrupt(self) -> None:
        """Label some images, then stop."""
        original = label_run.Journal.add

        def add(journal: Any, batch: Any) -> None:
            original(journal, batch)
            if journal.done == len(IDS):
                raise KeyboardInterrupt

        label_run.Journal.add = add  # type: ignore[method-assign]
        try:
            label_images(small_model(), self.folder / 'images', self.output, LabelOptions(**self.options))
        except KeyboardInterrupt:
            pass
        finally:
            label_run.Journal.add = original  # type: ignore[method-assign]

    def try_input(self, value: bytes) -> None:
        shutil.rmtree(self.output)
        shutil.copytree(self.saved, self.output)
        self.path.write_bytes(value)
        summary = label_images(
            small_model(), self.folder / 'images', self.output, LabelOptions(**self.options, resume=True)
        )
        if summary.labelled + len(summary.errors) != len(IDS):
            raise AssertionError(f'{summary.labelled} images labelled, {len(summary.errors)} errors')


class _Masks(_Boxes):
    boxes, masks = None, _Boxes.ids

    def mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        mask = np.zeros(size, np.uint8)
        mask[2:9, 3:9] = 1
        return mask


class Reports(Surface):
    """The folder that `fcam-zoo benchmark -o` writes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rng = np.random.default_rng(0)
        self.files: dict[str, dict[str, bytes]] = {}
        strategies = []
        for kind, dataset in (('boxes', _Boxes()), ('masks', _Masks())):
            place = folder / kind
            place.mkdir()
            maps = rng.random((2, SIDE, SIDE))
            options = {'thresholds': [0, 0.25, 0.5], 'threshold': 0.5, 'quiet': True}
            reports = {name: evaluate(maps, dataset, name, **options) for name in ('cam', 'fcam')}
            write_reports(place, reports, compare(reports, samples=40))
            self.files[kind] = {path.name: path.read_bytes() for path in place.glob('*.json')}
            for name in ('cam.json', 'fcam.json', 'comparison.json'):
                base = json.loads(self.files[kind][name])
                # Most places of a report are numbers of activations.
                short = base | {'activations': {}} if 'activations' in base else base
                strategies += [_tagged(kind, name, mutated_json(tree)) for tree in (base, short, short)]
        self.valid = [(k, name, data, 0) for k, files in self.files.items() for name, data in files.items()]
        self.inputs = st.one_of(strategies)

    def try_input(self, value: tuple[str, str, bytes, int]) -> None:
        kind, name, data, draw_plots = value
        folder = self.folder / kind
        (folder / name).write_bytes(data)
        try:
            self._use(read_reports(folder), draw_plots == 0)
        finally:
            (folder / name).write_bytes(self.files[kind][name])

    def _use(self, reports: dict[str, Report], draw_plots: bool) -> None:
        out = self.folder / 'out'
        metrics_table(reports)
        for report in reports.values():
            report.summary()
            report.to_json(out / 'a.json')
            for table in (None, *report.tables):
                report.to_csv(out / 'a.csv', table)
        if draw_plots:  # slow
            curves(reports).savefig(out / 'a.svg')
            activations(reports).savefig(out / 'a.png')
            write_html(reports, out / 'a.html')
        if all(report.description.kind == 'boxes' for report in reports.values()):  # Others cannot be compared.
            compare(reports, samples=40).to_markdown()


def _tagged(kind: str, name: str, data: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(st.just(kind), st.just(name), data, st.integers(0, 19))


class TrainingState(Surface):
    """The state file of an interrupted training."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model = small_model()
        decoder = list(self.model.decoder.parameters())
        for parameter in decoder:
            parameter.grad = torch.zeros_like(parameter)
        optimizer = self._optimizer()
        optimizer.step()
        history = [EpochMetrics(1, {'ce': 0.5}, 1.0, 2.0, {'max_box_acc_50': 50.0, 'mean': 40.0})]
        progress = Progress(1, 2, {'ce': 0.5}, 1.0, 1, 50.0, history, [0], {'scale': 1.0})
        save_state(folder / 'valid', self.model, optimizer, progress, {})
        data = (folder / 'valid').read_bytes()
        length = int.from_bytes(data[:8], 'little')
        header = json.loads(data[8 : 8 + length])
        values = json.loads(progress.to_json())
        few = {'__metadata__': header['__metadata__'], **dict(list(header.items())[:5])}

        def with_progress(tree: bytes) -> dict[str, Any]:
            return header | {'__metadata__': {'progress': tree.decode('utf-8', 'replace')}}

        self.valid = [Edits(data, ())]
        self.inputs = st.one_of(
            edits_of(data),
            with_header(data, mutated_json(values).map(with_progress)),
            with_header(data, mutated_json(values).map(with_progress)),
            with_header(data, mutated_tree(few)),
        )

    def _optimizer(self) -> torch.optim.SGD:
        return torch.optim.SGD(self.model.decoder.parameters(), 0.1, momentum=0.9)

    def try_input(self, value: Edits) -> None:
        path = self.folder / 'state.safetensors'
        path.write_bytes(value.build())
        load_state(path, self.model, self._optimizer(), {})
