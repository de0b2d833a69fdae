"""results/tables.md: what was measured, in the form of the paper's Tables 1 and 2, the paper's own figures apart."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from .._index import ReleaseEntry
from .._names import ModelName
from ..cams import METHODS
from ..benchmark.descriptions import MAP_TITLES

# Of the paper, copied from its tables by hand: nothing here was measured by us.
PAPER = Path('results') / 'paper.csv'
TEACHERS = {method: MAP_TITLES[method] for method in METHODS}
BOXES = {
    'max_box_acc_50': 'MaxBoxAcc',
    'mean': 'V2',
    'top1_50': 'top-1 loc.',
    'top5_50': 'top-5 loc.',
    'cls': 'cls',
    'robustness_50': 'robustness',
}
MASKS = {'pxap': 'PxAP', 'cls': 'cls'}
HEAD = """# Results

Made by `python -m fcam_zoo.hub.results` from `weights/index.json` and `results/measured.json`; none of ours is typed.

Percent, on the test split of each data set; each figure at its own best threshold. MaxBoxAcc: IoU 50. V2: mean of IoU
30, 50 and 70, of the largest region. top-1, top-5: localization at IoU 50. Robustness: percent of all thresholds at
which MaxBoxAcc is within 5 points of its best. "+ F-CAM" is the epoch that was best on val; the column "last" has the
first figure in the last epoch. A teacher's figures are of plain bilinear resizing."""


def page(entries: Sequence[ReleaseEntry]) -> str:
    """The whole page.

    Args:
        entries: What was measured, as `release.measure` describes it.
    """
    parts = [HEAD]
    for (dataset, title, architecture), found in _groups(entries).items():
        note, stride = found[0].dataset.note, found[0].model_args['output_stride']
        parts += [
            f'## {dataset}: {architecture}',
            f'{title}{f" ({note})" if note else ""}. Backbone {found[0].backbone}, output stride {stride}.',
            _teachers(found),
        ]
        spread = _spread(found)
        parts += [spread] if spread else []
    for place in sorted({place for entry in entries for place in entry.elsewhere}):
        parts += [f'## {place}', 'Another data set than the one of the training.', _elsewhere(entries, place)]
    if PAPER.is_file():
        parts += ["## The paper's own figures", _paper()]
    return '\n\n'.join(parts) + '\n'


def _groups(entries: Sequence[ReleaseEntry]) -> dict[tuple[str, str, str], list[ReleaseEntry]]:
    """Entries of one table: those of a data set and an architecture, which is a backbone and its stride."""
    groups: dict[tuple[str, str, str], list[ReleaseEntry]] = {}
    for entry in entries:
        name = ModelName.parse(entry.name)
        groups.setdefault((name.dataset, entry.dataset.title, name.architecture), []).append(entry)
    # Tables of one data set stand together.
    return {key: groups[key] for key in sorted(groups)}


def _variant(entry: ReleaseEntry) -> str:
    """What tells an entry from the main one of its teacher: the third part of its tag."""
    return ModelName.parse(entry.name).variant


def _teachers(entries: Sequence[ReleaseEntry]) -> str:
    """A baseline row and, of those that taught a decoder, a "+ F-CAM" row for each teacher."""
    columns = MASKS if 'pxap' in entries[0].metrics['test']['fcam'] else BOXES
    first = next(iter(columns))
    lines = [f'| method | {" | ".join(columns.values())} | last | released |', '|---' * (len(columns) + 3) + '|']
    main = {entry.teacher: entry for entry in entries if not _variant(entry)}
    any_entry = next(iter(main.values()), entries[0])
    for teacher, title in TEACHERS.items():
        if teacher not in main:
            if teacher in (test := any_entry.metrics['test']):
                lines.append(f'| {title} | {" | ".join(_cells(test[teacher], columns))} | | |')
            continue
        entry = main[teacher]
        test, last = entry.metrics['test'], entry.metrics['test_last_epoch']['fcam'][first]
        name = f'`{entry.name}`' if entry.file else ''
        lines.append(f'| {title} | {" | ".join(_cells(test[teacher], columns))} | | |')
        lines.append(f'| {title} + F-CAM | {" | ".join(_cells(test["fcam"], columns))} | {last:.1f} | {name} |')
    cells = _cells({**any_entry.metrics['test']['center'], 'cls': None}, columns)
    return '\n'.join([*lines, f'| centre baseline | {" | ".join(cells)} | | |'])


def _spread(entries: Sequence[ReleaseEntry]) -> str:
    """Mean and standard deviation over the seeds of each teacher that has several."""
    columns = MASKS if 'pxap' in entries[0].metrics['test']['fcam'] else BOXES
    lines = []
    for teacher, title in TEACHERS.items():
        seeds = [e for e in entries if e.teacher == teacher and (not _variant(e) or _variant(e).startswith('seed'))]
        if len(seeds) < 2:
            continue
        for split, said in (('test', 'best on val'), ('test_last_epoch', 'last')):
            values = [[e.metrics[split]['fcam'].get(key) for e in seeds] for key in columns]
            cells = ['-' if None in v else f'{statistics.mean(v):.1f} ± {statistics.stdev(v):.1f}' for v in values]
            numbers = ', '.join(str(e.recipe['seed']) for e in seeds)
            lines.append(f'| {title} + F-CAM, seeds {numbers} | {said} | {" | ".join(cells)} |')
    if not lines:
        return ''
    return '\n'.join(
        [f'| mean ± sd | epoch | {" | ".join(columns.values())} |', '|---' * (len(columns) + 2) + '|', *lines]
    )


def _elsewhere(entries: Sequence[ReleaseEntry], place: str) -> str:
    found = [(entry, entry.elsewhere[place]['test']) for entry in entries if place in entry.elsewhere]
    key, title = next((k, t) for k, t in {**MASKS, **BOXES}.items() if k in found[0][1]['fcam'])
    lines = [f'| model | {title}: CAM | teacher | F-CAM | centre |', '|---|---|---|---|---|']
    for entry, kinds in found:
        cells = [f'{kinds[kind][key]:.1f}' for kind in ('cam', entry.teacher, 'fcam', 'center')]
        lines.append(f'| `{entry.name}` | {" | ".join(cells)} |')
    return '\n'.join(lines)


def _paper() -> str:
    with PAPER.open(encoding='utf-8', newline='') as f:
        source, head, *rows = csv.reader(f)
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|', *(f'| {" | ".join(row)} |' for row in rows)]
    return f'Not measured by us. {", ".join(source)}.\n\n' + '\n'.join(lines)


def _cells(figures: dict[str, float | None], columns: dict[str, str]) -> Iterator[str]:
    return (f'{figures[key]:.1f}' if figures.get(key) is not None else '-' for key in columns)
