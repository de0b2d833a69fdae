"""Errors of an evaluation name the image, and are the same in every process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_data import Model, Squares, fcam_maps, save_maps

from fcam_zoo.benchmark import _workers, evaluate
from fcam_zoo.errors import BenchmarkError, DatasetError


class Missing(Squares):
    """One image cannot be read."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        if index == 4:
            raise DatasetError('4.png: no such image file')
        return super().__getitem__(index)


@pytest.mark.parametrize('workers', [0, 2])
def test_errors_of_images_are_not_changed(workers: int) -> None:
    with pytest.raises(DatasetError, match=r'^4\.png: no such image file$'):
        evaluate(Model(), Missing(), batch_size=2, workers=workers, quiet=True)


def test_duplicate_images_raise() -> None:
    dataset = Squares()
    dataset.ids[5] = '2.png'
    with pytest.raises(ValueError, match=r'image 2\.png is in the data set twice: list each image once'):
        evaluate(fcam_maps(dataset), dataset, quiet=True)


class Shuffled(Squares):
    """Items return the index of another item."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        image, label, _ = super().__getitem__(index)
        return image, label, index // 2


def test_wrong_indices_of_items_raise() -> None:
    with pytest.raises(ValueError, match=r'items 0 to 1 of the data set return the indices \[0, 0\]'):
        evaluate(Model(), Shuffled(), batch_size=2, quiet=True)


def fail_in_one_process(rank: int, world: int, folder: Path) -> None:
    store = torch.distributed.FileStore(str(folder / 'store'), world)
    torch.distributed.init_process_group('gloo', store=store, rank=rank, world_size=world)
    dataset = Squares()
    maps = np.asarray(fcam_maps(dataset))
    maps[4] = np.nan
    errors = []
    for source in (maps, folder / 'maps' if rank else maps):
        with pytest.raises(ValueError, match='map') as caught:
            evaluate(source, dataset, batch_size=2, quiet=True)
        errors.append(str(caught.value))
    (folder / f'{rank}.json').write_text(json.dumps(errors))
    assert evaluate(np.zeros_like(maps), dataset, quiet=True).meta.n == 7  # the processes still work together
    # Without it, the process that ends first can make the others abort.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_processes_of_torchrun_fail_together(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(fail_in_one_process, (3, tmp_path), nprocs=3)
    for rank in range(3):
        nan, missing = json.loads((tmp_path / f'{rank}.json').read_text())
        assert nan == 'fcam map of 4.png holds NaN; scores must lie in [0,1]'
        assert missing == f'{tmp_path / "maps"} is not a folder: give one with <image id>.npy files'


def test_errors_name_the_image() -> None:
    for change, message in (
        ({'boxes': np.zeros((0, 4))}, r'^image 4\.png has no ground-truth box'),
        ({'boxes': np.array([[5, 5, 3, 8]])}, r'^image 4\.png: box \[5\.0, 5\.0, 3\.0, 8\.0\] is not'),
        ({'boxes': np.array([[5, 5, 99, 8]])}, r'^image 4\.png has a box outside its map of 24 x 24'),
        ({'sizes': np.array([0, 3])}, r'^image 4\.png: sizes must be positive'),
        ({'truth': 7}, r'^mask of 4\.png may only hold 0, 1 and 255$'),
        ({'maps': np.inf}, r'^mine map of 4\.png holds values from .* to inf; scores must lie in \[0,1\]$'),
    ):
        dataset = Squares(masks='truth' in change)
        maps = np.asarray(fcam_maps(dataset))
        for name, value in change.items():
            (maps if name == 'maps' else getattr(dataset, name))[4] = value
        with pytest.raises(ValueError, match=message):
            evaluate(maps, dataset, 'mine', batch_size=3, quiet=True)
    with pytest.raises(ValueError, match=r'^mine maps of images 0\.png to 2\.png: score_maps must have the shape'):
        evaluate(fcam_maps(Squares())[:, None], Squares(), 'mine', batch_size=3, quiet=True)
    with pytest.raises(ValueError, match='score_maps must be real numbers, got complex128'):
        evaluate(fcam_maps(Squares()).astype(complex), Squares(), 'mine', quiet=True)


def test_maps_of_a_folder_must_have_one_size(tmp_path: Path) -> None:
    maps = np.asarray(fcam_maps(Squares()))
    folder = save_maps(tmp_path / 'maps', maps)
    np.save(folder / '4.png.npy', maps[4, ::2])
    for batch_size in (1, 2, 7):
        with pytest.raises(ValueError, match=r'4\.png\.npy has the shape \(12, 24\), others \(24, 24\)'):
            evaluate(folder, Squares(), batch_size=batch_size, quiet=True)


@pytest.mark.parametrize(('total', 'batch_size', 'world'), [(24, 32, 2), (99, 8, 3), (64, 8, 8), (3, 1, 5)])
def test_processes_score_the_batches_of_a_single_process(
    total: int, batch_size: int, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    for rank in range(world):
        monkeypatch.setattr(_workers, 'rank', lambda rank=rank: rank)
        monkeypatch.setattr(_workers, 'world_size', lambda: world)
        share = _workers.share_of(total, batch_size)
        batches += [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
    assert batches == [range(total)[start : start + batch_size] for start in range(0, total, batch_size)]


def test_a_worker_that_ends_early_is_explained() -> None:
    def results(calls: int) -> list[object]:
        jobs = ((i, [(1,)]) for i in range(calls))
        return [result() for _, found in _workers.map_in_workers(jobs, os._exit, 1) for result in found]

    for calls in (1, 9):
        with pytest.raises(BenchmarkError, match='a worker process ended'):
            results(calls)
