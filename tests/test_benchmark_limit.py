"""`limit` chooses images of all classes, and asks for their maps alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_data import Model, Squares, fcam_maps, save_maps
from synthetic import make_wsol

from fcam_zoo.benchmark import Report, evaluate, evaluate_many
from fcam_zoo.benchmark.subset import Subset, limit_images, spread_over_classes
from fcam_zoo.cli import main


@pytest.mark.parametrize(
    ('sizes', 'count', 'expected'),
    [
        ((4, 4, 4), 6, (2, 2, 2)),
        ((1, 9, 2), 7, (1, 4, 2)),  # Small classes are complete.
        ((5, 5, 5, 5), 2, (1, 0, 0, 1)),
        ((5, 5), 3, (2, 1)),
        ((3, 2), 5, (3, 2)),
    ],
)
def test_images_are_spread_over_classes(sizes: tuple[int, ...], count: int, expected: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    chosen = spread_over_classes(labels, count)
    assert len(set(chosen)) == count
    assert chosen == sorted(chosen)
    assert tuple(np.bincount(labels[chosen], minlength=len(sizes))) == expected
    # The order of the images does not matter.
    order = np.random.default_rng(0).permutation(len(labels))
    assert (
        tuple(np.bincount(labels[order][spread_over_classes(labels[order], count)], minlength=len(sizes))) == expected
    )


def test_images_of_a_class_are_spread() -> None:
    assert spread_over_classes(np.zeros(11), 3) == [0, 5, 10]


@pytest.mark.parametrize('masks', [False, True])
def test_every_source_is_limited(tmp_path: Path, masks: bool) -> None:
    """Maps in memory, in files, by a function and by a model give the same scores for the same images."""
    dataset = Squares(9, masks)
    dataset.labels = np.sort(dataset.labels)
    for i in range(9):
        dataset.images[i] = np.roll(dataset.images[i], dataset.labels[i] - i % 3, 0)
    chosen = spread_over_classes(dataset.labels, 4)
    maps = fcam_maps(dataset).astype(np.float32)
    folder = save_maps(tmp_path / 'maps', maps)
    for i in set(range(9)) - set(chosen):
        (folder / f'{i}.png.npy').unlink()

    def function(images: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
        return fcam_maps(Of(images.numpy())).astype(np.float32)

    class Of:
        def __init__(self, images: np.ndarray) -> None:
            self.images = images

    reports = [
        evaluate(source, dataset, limit=4, quiet=True) for source in (maps, torch.tensor(maps), folder, function)
    ]
    assert all(report.metrics == reports[0].metrics for report in reports)
    assert [row['id'] for row in reports[0].rows] == [dataset.ids[i] for i in chosen]
    assert {row['label'] for row in reports[0].rows} == {0, 1, 2}
    by_model = evaluate_many(Model(), dataset, ('fcam', 'center'), limit=4, batch_size=3, quiet=True)
    assert by_model['fcam'].metrics['cls'] == 100
    assert by_model['center'].meta.n == 4


def test_a_limit_above_the_number_of_images_changes_nothing() -> None:
    dataset = Squares()
    assert limit_images(dataset, 7) is dataset
    assert limit_images(dataset, None) is dataset
    with pytest.raises(ValueError, match='limit=0: give a whole number of 1 or more'):
        limit_images(dataset, 0)
    with pytest.raises(ValueError, match='0 maps for 3 images'):
        evaluate(fcam_maps(dataset)[:3], dataset, limit=3, quiet=True)


def test_a_subset_reports_wrong_indices() -> None:
    class Wrong(Squares):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
            return *super().__getitem__(index)[:2], 0

    assert [item[2] for item in (Subset(Wrong(), [0, 4])[i] for i in range(2))] == [0, -1]


def test_command(tmp_path: Path, capsys) -> None:
    data = make_wsol(tmp_path / 'shapes', {'test': 8})
    ids = sorted((data / 'metadata' / 'test' / 'image_ids.txt').read_text().split())  # Sorted by class.
    for name, lines in (('image_ids', ids),):
        (data / 'metadata' / 'test' / f'{name}.txt').write_text('\n'.join(lines))
    command = ['benchmark', str(data), '--scoremaps', str(tmp_path / 'maps'), '--limit', '2', '--quiet']
    (tmp_path / 'maps').mkdir()
    assert main(command) == 1
    assert '2 of 2 maps are missing' in capsys.readouterr().err
    for image_id in (ids[0], ids[4]):
        path = tmp_path / 'maps' / f'{image_id}.npy'
        path.parent.mkdir()
        np.save(path, np.eye(16))
    assert main([*command, '-o', str(tmp_path / 'report')]) == 0
    assert 'shapes/test, 2 images of 8, spread over the classes' in capsys.readouterr().out
    report = Report.from_json(tmp_path / 'report' / 'center.json')
    assert [row['id'] for row in report.rows] == [ids[0], ids[4]]
