"""Pages of reports: complete, self-contained, safe with any name, and with the metrics of the reports."""

from __future__ import annotations

import base64
import io
import re
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_data import Rectangles
from PIL import Image
from torch import nn

from fcam_zoo.benchmark import Report, compare, evaluate, evaluate_many, maps_of, write_html
from fcam_zoo.errors import install_hint

N, SIDE = 12, 24
VOID = {'meta', 'img'}
EVIL = '<script>alert("1")</script>&\'|$\\x$'


class Page(HTMLParser):
    """Elements and text of a page; tags must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def find(self, tag: str, **attributes: str) -> list[dict[str, Any]]:
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]

    def pictures(self) -> list[dict[str, Any]]:
        return [image for image in self.find('img') if image['src'].startswith('data:image/jpeg;base64,')]

    def plots(self) -> list[dict[str, Any]]:
        return [image for image in self.find('img') if image['src'].startswith('data:image/svg+xml;base64,')]


class Shapes(Rectangles):
    """Image i is shifted by i pixels in its map, so that the first is best and the last is worst."""

    class_names: Mapping[int, str] = {0: EVIL, 1: 'b'}

    def __init__(self, masks: bool = False) -> None:
        super().__init__(np.tile([2, 4, 9, 11], (N, 1)), SIDE, np.arange(N) % 2, masks)
        self.ids = [f'{EVIL}{i}.png' for i in range(N)]
        self.sizes = np.tile([2 * SIDE, SIDE], (N, 1))
        self.boxes = None if masks else [np.array([[4, 4, 20, 12]])] * N
        shifted = np.stack([np.roll(t, i, 1) for i, t in enumerate(self.truth)])
        self.maps = (0.1 + 0.8 * shifted).astype(np.float32)


def make(masks: bool = False) -> tuple[Shapes, dict[str, Report]]:
    dataset = Shapes(masks)
    reports = evaluate_many(dataset.maps, dataset, ['mine', 'center'], quiet=True)
    return dataset, {EVIL: reports['mine'], 'center': reports['center']}


def written(path: Path, *args: Any, **options: Any) -> tuple[Page, str]:
    write_html(args[0], path, *args[1:], **options)
    text = path.read_text(encoding='utf-8')
    return Page(text), text


@pytest.mark.parametrize('masks', [False, True], ids=['boxes', 'masks'])
def test_page(tmp_path: Path, masks: bool) -> None:
    dataset, reports = make(masks)
    options = {'comparison': compare(reports, samples=40), 'command': f'run {EVIL}', 'title': f'On {EVIL}'}
    maps = {EVIL: dataset.maps.__getitem__, 'center': maps_of(None, dataset, ['center'])['center']}
    page, text = written(tmp_path / 'report.html', reports, dataset, maps, images=2, **options)
    assert [p.name for p in tmp_path.iterdir()] == ['report.html']
    assert text.startswith('<!doctype html>')
    # Nothing is loaded, and no script runs.
    assert not re.search(r'https?://|@import|url\(', text)
    for tag, attrs in page.tags:
        assert tag not in ('script', 'link', 'iframe', 'object')
        assert not attrs.keys() & {'href', 'srcset', 'onload', 'onerror', 'onclick'}
    assert len(page.find('img')) == len(page.pictures()) + len(page.plots())
    assert "default-src 'none'" in text
    # Names are shown as text.
    words = ' '.join(page.text)
    for part in (EVIL, f'{EVIL}0.png', f'run {EVIL}', f'On {EVIL}', f'difference to {EVIL}'):
        assert part in words
    curves, activations = page.plots()
    assert ('precision' if masks else 'box accuracy at IoU 70 %') in curves['alt']
    assert 'inside and outside objects' in activations['alt']
    assert b'<svg' in base64.b64decode(curves['src'].split(',')[1])
    for key, value in reports[EVIL].metrics.items():
        assert f'{value:.{3 if "threshold" in key else 1}f}' in words
    for word in ('Metrics', 'Comparison', 'Curves', 'Activations', 'Size of objects', 'Classes', 'Images', 'fcam_zoo'):
        assert word in words
    # Two best and two worst images of the report that is not the center baseline.
    images = page.pictures()
    assert len(images) == 4
    assert [re.search(r'(\d+)\.png', image['alt'])[1] for image in images] == ['0', '1', '11', '10']
    key = 'pxap' if masks else 'iou_50'
    shown = [row[key] for row in reports[EVIL].rows]
    values = [float(image['alt'].split()[-1]) for image in images]
    assert values == pytest.approx([shown[0], shown[1], shown[11], shown[10]], abs=0.06)
    assert values[0] > values[-1]
    picture = Image.open(io.BytesIO(base64.b64decode(images[0]['src'].split(',')[1])))
    assert picture.size == (300, 150)
    assert (int(images[0]['width']), int(images[0]['height'])) == (200, 100)


def test_pictures_show_both_boxes(tmp_path: Path) -> None:
    dataset, reports = make()
    page, _ = written(tmp_path / 'r.html', {'m': reports[EVIL]}, dataset, {'m': lambda i: dataset.maps[i]}, images=1)
    worst = page.pictures()[1]
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(worst['src'].split(',')[1])))).astype(int)
    red, green, blue = np.moveaxis(pixels, 2, 0)
    white = (red > 200) & (green > 200) & (blue > 200)
    magenta = (red > 180) & (green < 120) & (blue > 180)
    # The true box covers x from 4 to 20 of 48; the box found is 11 pixels of the map further right.
    x = np.nonzero(white)[1] * 48 / 300
    assert (x.min(), x.max()) == pytest.approx((4, 20), abs=1)
    x = np.nonzero(magenta)[1] * 48 / 300
    assert (x.min(), x.max()) == pytest.approx((26, 42), abs=1)


def test_a_single_report_and_no_pictures(tmp_path: Path) -> None:
    dataset, reports = make()
    page, text = written(tmp_path / 'r.html', reports[EVIL])
    assert 'Localization on shapes/val' in page.text
    assert not page.pictures()
    assert 'is bold' not in text
    bare = evaluate(dataset.maps, dataset, 'mine', rows=False, quiet=True)
    page, _ = written(tmp_path / 'bare.html', bare, dataset, {'mine': dataset.maps.__getitem__})
    assert not page.pictures()
    assert 'Classes' not in page.text
    # A report from a file of an earlier version has no activations.
    old = Report(bare.maps, bare.metrics, bare.curves, bare.meta)
    page, _ = written(tmp_path / 'old.html', old)
    assert 'Activations' not in page.text
    # The center baseline is shown if there is nothing else.
    center = {'center': reports['center']}
    page, _ = written(tmp_path / 'c.html', center, dataset, maps_of(None, dataset, ['center']), images=1)
    assert len(page.pictures()) == 2


def test_many_classes_are_folded(tmp_path: Path) -> None:
    for count, unfolded in ((20, True), (21, False)):
        report = make()[1][EVIL]
        report.tables['classes'] = [{'label': i, 'class': f'c{i}', 'n': 1, 'accuracy_50': None} for i in range(count)]
        page, _ = written(tmp_path / 'r.html', report)
        assert ('open' in page.find('details')[0]) == unfolded
        assert f'c{count - 1}' in page.text


def test_file_names_that_are_not_unicode(tmp_path: Path) -> None:
    dataset, reports = make()
    reports[EVIL].rows[0]['id'] = dataset.ids[0] = 'a\udcff.png'
    page, _ = written(tmp_path / 'r.html', {'m': reports[EVIL]}, dataset, {'m': dataset.maps.__getitem__})
    assert r'a\udcff.png' in ' '.join(page.text)


def test_errors_leave_no_file(tmp_path: Path) -> None:
    dataset, reports = make()
    one, masks = reports[EVIL], make(masks=True)[1][EVIL]
    other = Shapes()
    other.ids = [f'o{i}' for i in range(N)]
    limited = evaluate(dataset.maps, dataset, 'mine', limit=3, quiet=True)
    get = dataset.maps.__getitem__
    for shown, args, options, message in (
        ({}, (), {}, 'nothing to show'),
        (one, (), {'images': -1}, 'images=-1: give 0 or more'),
        ({'a': one, 'b': masks}, (), {}, 'reports a and b have different metric, iou'),
        ({'a': one, 'b': limited}, (), {}, 'reports a and b have different n'),
        ({'a': one}, (None, {'a': get}), {}, 'pictures need the data set'),
        ({'a': one}, (dataset, {'b': get}), {}, 'maps has b, but reports only has a'),
        ({'a': one}, (other, {'a': get}), {}, 'report a and the data set have different images'),
        ({'a': one}, (dataset, {'a': lambda i: 2 + get(i)}), {}, r'scores must lie in \[0,1\]'),
    ):
        with pytest.raises(ValueError, match=message):
            write_html(shown, tmp_path / 'r.html', *args, **options)
    assert not list(tmp_path.iterdir())


class Model(nn.Module):
    """Maps of the label, and of the brightness of the image."""

    pretrained_cfg: Mapping[str, tuple] = {'mean': (0.0,) * 3, 'std': (1.0,) * 3}

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.passes = 0

    def forward(self, x: torch.Tensor) -> SimpleNamespace:
        assert not self.training
        self.passes += 1
        bright = self.weight * x[:, 0]
        return SimpleNamespace(logits=torch.zeros(len(x), 2), maps=torch.stack([-bright, bright], 1))

    def cam(self, x: torch.Tensor, labels: torch.Tensor, method: str) -> torch.Tensor:
        return x[:, 0] * 0 + labels[:, None, None]


def test_maps_of_all_sources(tmp_path: Path) -> None:
    dataset, model = Shapes(), Model().train()
    found = maps_of(model, dataset, ['fcam', 'cam', 'center'])
    expected = torch.sigmoid(2 * (dataset[3][0][0] / 255))
    np.testing.assert_allclose(found['fcam'](3), expected, rtol=1e-5)
    assert (found['cam'](3) == 1).all()
    assert (found['cam'](2) == 0).all()
    assert found['center'](3).shape == (SIDE, SIDE)
    assert model.passes == 2  # each image once for all kinds of map
    assert model.training
    assert np.array_equal(maps_of(dataset.maps, dataset, ['m'])['m'](4), dataset.maps[4])
    assert maps_of(torch.from_numpy(dataset.maps[:, :8]), dataset, ['m', 'center'])['center'](0).shape == (8, SIDE)
    dataset.ids = [f'{i}.png' for i in range(N)]
    for image_id, score_map in zip(dataset.ids, dataset.maps):
        np.save(tmp_path / f'{image_id}.npy', score_map)
    assert np.array_equal(maps_of(tmp_path, dataset, ['m'])['m'](5), dataset.maps[5])
    function = maps_of(lambda images, labels: images[:, 0] / 255, dataset, ['m'])['m']
    np.testing.assert_allclose(function(6), dataset[6][0][0] / 255)


def test_pages_without_matplotlib_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    page, _ = written(tmp_path / 'r.html', make()[1])
    assert not page.plots()
    assert page.text.count(f'plots need matplotlib: {install_hint("viz")}') == 2


def test_pages_are_reproducible(tmp_path: Path) -> None:
    reports = make()[1]
    assert written(tmp_path / 'a.html', reports)[1] == written(tmp_path / 'b.html', reports)[1]
