"""Damaged and hostile files of reports, and names that files, pages and plots can hold."""

from __future__ import annotations

import csv
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_data import Rectangles

from fcam_zoo.benchmark import Comparison, Report, compare, evaluate, read_reports, write_html
from fcam_zoo.benchmark.plots import curves
from fcam_zoo.benchmark.report import metrics_table
from fcam_zoo.benchmark.report_folder import _file_stems, write_reports
from fcam_zoo.cli import main
from fcam_zoo.errors import ReportError

SIDE = 16


def make(masks: bool = False, name: str = 'mine') -> Report:
    dataset = Rectangles(np.array([[2, 2, 9, 9], [4, 3, 12, 8]]), SIDE, np.array([0, 1]), masks)
    maps = np.random.default_rng(0).random((2, SIDE, SIDE))
    return evaluate(maps, dataset, name, thresholds=[0, 0.5], threshold=0.5, quiet=True)


@pytest.fixture(scope='module', params=[False, True], ids=['boxes', 'masks'])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('report') / 'mine.json'
    make(request.param).to_json(path)
    return path


def test_reports_are_read_as_they_were_written(saved: Path, tmp_path: Path) -> None:
    report = Report.from_json(saved)
    report.to_json(tmp_path / 'again.json')
    assert (tmp_path / 'again.json').read_text() == saved.read_text()
    assert report == make(report.meta.metric == 'PxAP')


TEXTS = {
    b'': 'is damaged',
    b'{': 'is damaged',
    b'\xff\xfe': 'is damaged',
    b'[' * 100_000: 'is damaged',
    b'[1]': 'is not a report',
    b'null': 'is not a report',
    b'{"maps": "x"}': 'is not a report',
    b'{"maps": NaN}': 'is damaged',
    b'{"maps": ' + b'1' * 5000 + b'}': 'is damaged',
}


@pytest.mark.parametrize('data', TEXTS, ids=range(len(TEXTS)))
def test_files_that_are_not_reports_raise(data: bytes, tmp_path: Path) -> None:
    (tmp_path / 'x.json').write_bytes(data)
    with pytest.raises(ReportError, match=rf'x\.json {TEXTS[data]}') as caught:
        Report.from_json(tmp_path / 'x.json')
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize('read', [Report.from_json, Comparison.from_json, read_reports])
def test_missing_files_raise(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'x\.json does not exist: give a folder or a JSON file'):
        read(tmp_path / 'x.json')


def test_pipes_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'x.json')
    with pytest.raises(ReportError, match='not a file'):
        Report.from_json(tmp_path / 'x.json')


Change = Callable[[dict[str, Any]], object]
DAMAGED: dict[str, tuple[Change, str]] = {
    'unknown field': (lambda r: r.update(more=1), 'unknown field more'),
    'samples': (lambda r: r.update(samples=[1]), 'samples is'),
    'name of a wrong type': (lambda r: r.update(maps=5), 'maps is 5: give text'),
    'metrics as a list': (lambda r: r.update(metrics=[1]), 'metrics is'),
    'unknown metric': (lambda r: r['metrics'].update(more=1), "metrics has the unknown field 'more'"),
    'metric as text': (lambda r: r['metrics'].update(threshold='0.5'), 'metrics.threshold is'),
    'metric out of range': (lambda r: r['metrics'].update(threshold=1e308), 'metrics.threshold is 1e[+]308: give'),
    'huge metric': (lambda r: r['metrics'].update(threshold=10**400), 'metrics.threshold is'),
    'no main metric': (lambda r: r['metrics'].clear(), 'metrics has no'),
    'unknown name of the metric': (lambda r: r['meta'].update(metric='MaxBoxAccV3'), 'meta.metric is'),
    'metric as a list': (lambda r: r['meta'].update(metric=['PxAP']), 'meta.metric is'),
    'no images': (lambda r: r['meta'].update(n=0), 'meta.n is 0: give a number from 1'),
    'number of images as text': (lambda r: r['meta'].update(n='2'), "meta.n is '2': give a whole number"),
    'many thresholds': (lambda r: r['meta'].update(thresholds=10**12), 'meta.thresholds is'),
    'long name': (lambda r: r['meta'].update(dataset='x' * 10**5), "meta.dataset is 'xxx"),
    'no curves': (lambda r: r.update(curves={}), 'curves has no'),
    'curves of different lengths': (lambda r: r['curves']['threshold'].append(0.9), 'as many in all lists'),
    'curve of text': (lambda r: r['curves'].update(threshold=['a', 'b']), r'curves.threshold\[0\] is'),
    'nested curve': (lambda r: r['curves'].update(threshold=[[0], [1]]), r'curves.threshold\[0\] is'),
    'negative curve': (lambda r: r['curves'].update(threshold=[0, -1]), r'curves.threshold\[1\] is -1'),
    'rows as text': (lambda r: r.update(rows='abc'), 'rows is'),
    'rows of numbers': (lambda r: r.update(rows=[1, 2]), r'rows\[0\] is 1'),
    'fewer rows': (lambda r: r['rows'].pop(), 'rows has 1 images, but meta.n is 2'),
    'other columns': (lambda r: r['rows'][1].pop('id'), r'rows\[1\] has other columns than rows\[0\]'),
    'unknown column': (lambda r: [row.update({'a\nb': 1}) for row in r['rows']], r"unknown field 'a\\nb'"),
    'no id': (lambda r: [row.pop('id') for row in r['rows']], r'rows\[0\] has no id'),
    'id as a list': (lambda r: r['rows'][1].update(id=[]), r'rows\[1\].id is \[\]: give text'),
    'label as text': (lambda r: r['rows'][0].update(label='=1+1'), r"rows\[0\].label is '=1\+1': give a whole"),
    'unknown table': (lambda r: r['tables'].update(more=[]), "unknown table 'more'"),
    'class as a number': (lambda r: r['tables']['classes'][0].update({'class': 5}), r'tables.classes\[0\].class is 5'),
    'size as text': (lambda r: r['tables']['sizes'][0].update(above='x'), r"tables.sizes\[0\].above is 'x'"),
    'no scores of classes': (
        lambda r: [row.pop('n') for row in r['tables']['classes']],
        r'tables.classes\[0\] has no n',
    ),
    'few bins': (lambda r: r['activations']['inside'].pop(), 'activations.inside has 127 numbers: give 128 to 128'),
    'no bins of a kind': (lambda r: r['activations'].pop('outside'), 'activations has no outside'),
    'a bin as text': (lambda r: r['activations'].update(all=['%s'] * 128), r"activations.all\[0\] is '%s'"),
}


@pytest.mark.parametrize(('change', 'message'), DAMAGED.values(), ids=DAMAGED)
def test_damaged_reports_raise(change: Change, message: str, saved: Path, tmp_path: Path) -> None:
    values = json.loads(saved.read_text())
    change(values)
    (tmp_path / 'x.json').write_text(json.dumps(values))
    with pytest.raises(ReportError, match=rf'x\.json is not a report of fcam-zoo benchmark \(.*{message}') as caught:
        Report.from_json(tmp_path / 'x.json')
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize('iou', [None, [], [0], [101], ['50'], [50, 50.0000001], [[50]], 50])
def test_wrong_ious_raise(iou: Any, tmp_path: Path) -> None:
    path = tmp_path / 'x.json'
    make().to_json(path)
    values = json.loads(path.read_text())
    values['meta']['iou'] = iou
    path.write_text(json.dumps(values))
    with pytest.raises(ReportError, match='iou'):
        Report.from_json(path)


def test_reports_of_earlier_versions_are_read(saved: Path, tmp_path: Path) -> None:
    values = json.loads(saved.read_text())
    del values['activations'], values['tables'], values['meta']['versions']
    if values['meta']['metric'] == 'PxAP':
        del values['meta']['iou'], values['meta']['multi_contour']
    (tmp_path / 'x.json').write_text(json.dumps(values))
    report = Report.from_json(tmp_path / 'x.json')
    assert (report.activations, report.meta.versions) == ({}, None)
    write_html(report, tmp_path / 'x.html')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / 'report'
    path.mkdir()
    reports = {'mine': make()}
    write_reports(path, reports, compare(reports, samples=40))
    return path


COMPARISONS: dict[str, Change] = {
    'no rows': lambda c: c.update(rows=[]),
    'no names': lambda c: c['rows'][0].pop('maps'),
    'name of a wrong type': lambda c: c['rows'][0].update(maps=['mine']),
    'name as an object': lambda c: c['rows'][0].update(maps={'a': 1}),
    'half of a character': lambda c: c['rows'][0].update(maps='\ud800'),
    'rows of numbers': lambda c: c.update(rows=[5]),
    'meta as text': lambda c: c.update(meta='x'),
    'unknown field': lambda c: c.update(more=1),
}


@pytest.mark.parametrize('change', COMPARISONS.values(), ids=COMPARISONS)
def test_damaged_comparisons_raise(change: Change, folder: Path) -> None:
    path = folder / 'comparison.json'
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ReportError, match=r'comparison\.json is not a comparison of fcam-zoo benchmark'):
        read_reports(folder)


@pytest.mark.parametrize('name', ['../../etc/passwd', 'x' * 300, 'nul\0byte', '\x1b[31m'])
def test_names_of_comparisons_stay_in_the_folder(name: str, folder: Path) -> None:
    path = folder / 'comparison.json'
    values = json.loads(path.read_text())
    for row in values['rows']:
        row['maps'] = name
    path.write_text(json.dumps(values))
    with pytest.raises((FileNotFoundError, ReportError), match=str(folder)):
        read_reports(folder)


def test_many_equal_names_take_little_time() -> None:
    stems = _file_stems('?' * (k + 1) for k in range(5000))
    assert len(set(stems)) == 5000
    assert stems[:3] == ['_', '__2', '__3']


def test_the_command_refuses_damaged_reports(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / 'mine.json').write_bytes(b'\xff')
    assert main(['figures', 'curves', str(folder), '-o', str(folder / 'x.png')]) == 1
    error = capsys.readouterr().err
    assert error.startswith('fcam-zoo: error: ')
    assert 'mine.json is damaged (not valid JSON: it is not UTF-8 text): run fcam-zoo benchmark again' in error


NAMES = [
    'a\0b',
    'a\nb',
    '\x1b[31ma',
    '\u202eab',
    'a\ud800b',
    '_a',
    '$x^{',
    '<script>',
    '=1+1',
    'a|b',
    'a' * 4000,
    '\uffff',
]


@pytest.mark.parametrize('name', NAMES, ids=range(len(NAMES)))
def test_names_in_outputs(name: str, tmp_path: Path) -> None:
    """Names of files, classes and models may hold anything; outputs stay valid, and have one line per row."""
    report = make(name=name)
    report.meta = replace(report.meta, dataset=name, split=name)
    for row in report.rows:
        row['id'] += name
    for row in report.tables['classes']:
        row['class'] = name
    reports = {name: report, 'b': make(name='b')}
    reports['b'].meta = report.meta
    reports['b'].rows = report.rows
    comparison = compare(reports, samples=40)
    for text in (metrics_table(reports), comparison.to_markdown(), report.summary()):
        text.encode()
        assert not set(text) & set('\0\x1b\u202e\uffff')
    assert len(comparison.to_markdown().splitlines()) == 2 + 2 * len({row.metric for row in comparison.rows})
    write_reports(tmp_path, reports, comparison)
    page = (tmp_path / 'report.html').read_text(encoding='utf-8')
    assert not set(page) & set('\0\x1b\u202e\uffff')
    assert '<script>' not in page
    assert list(read_reports(tmp_path)) == [name.encode(errors='replace').decode(), 'b']
    with next(tmp_path.glob('*_classes.csv')).open(newline='', encoding='utf-8') as file:
        assert len(list(csv.reader(file))) == 3
    figure = curves(reports)
    assert len(figure.axes[0].get_legend().get_texts()) == 2
    figure.savefig(tmp_path / 'x.svg')
    ET.parse(tmp_path / 'x.svg')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'samples': 10**9}, 'samples is 1000000000: give 40 or more'),
        ({'samples': 40.5}, 'samples is 40.5'),
        ({'samples': '50'}, "samples is '50'"),
        ({'seed': -1}, 'seed is -1'),
        ({'seed': 'x'}, "seed is 'x'"),
    ],
)
def test_options_of_compare(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare({'mine': make()}, **options)
