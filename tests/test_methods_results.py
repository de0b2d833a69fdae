"""The comparison of training methods: what a row has, how rows are added, and that the table of the docs is current."""

from __future__ import annotations

import json

import pytest
from synthetic import make_wsol, train_config

from fcam_zoo.train import ClassifierConfig, DecoderConfig, train
from tools import methods, records


def row(**values):
    base = {'method': 'has', 'settings': '{}', 'stride': 32, 'seed': 0, 'maps': 'class map'}
    return methods.Row(**{**base, 'val_30': 90.0, 'val_50': 40.0, 'val_70': 5.0, 'val_mean': 45.0, **values})


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / 'results').mkdir()
    monkeypatch.setattr(records, 'ROOT', tmp_path)
    return tmp_path


def test_rows_are_added_once(checkout):
    methods.add([row(seed=1), row(), row(method='plain', settings='')])
    methods.add([row(test_mean=50.0, test_50=41.0)])
    found = methods.rows()
    assert [(r.method, r.seed, r.test_mean) for r in found] == [('plain', 0, None), ('has', 0, 50.0), ('has', 1, None)]
    assert found[1] == row(test_mean=50.0, test_50=41.0)


def test_rows_are_in_the_order_of_a_reader(checkout):
    names = ('FSL, 5 boxes', 'F-CAM', 'class map')
    methods.add([row(maps=name, method=method) for method in ('adl', 'has') for name in names])
    assert [(r.method, r.maps) for r in methods.rows()] == [
        ('has', 'class map'),
        ('has', 'F-CAM'),
        ('adl', 'class map'),
        ('adl', 'F-CAM'),
        ('has', 'FSL, 5 boxes'),
        ('adl', 'FSL, 5 boxes'),
    ]


def test_table_has_mean_and_spread_of_the_seeds_scored_on_test(checkout):
    methods.add([row(test_mean=50.0, cls=70.0), row(seed=1, test_mean=52.0, cls=71.0), row(seed=2), row(stride=16)])
    text = methods.render('a\n<!-- results: begin -->\nold\n<!-- results: end -->\nb')
    assert text.startswith('a\n<!-- results: begin -->\n')
    assert text.endswith('<!-- results: end -->\nb')
    assert '| HaS | class map | 2 | - | - | - | 51.0 ± 1.4 | - | 70.5 ± 0.7 | - |' in text
    assert 'Stride 16' not in text
    with pytest.raises(ValueError, match='must have the lines'):
        methods.render('no markers')


def test_chart_has_a_panel_per_stride_and_a_point_per_run(checkout):
    pytest.importorskip('matplotlib')
    methods.add([row(test_mean=50.0), row(maps='F-CAM', test_mean=60.0), row(method='adl', stride=16, test_mean=55.0)])
    figure = methods.chart()
    points = {axes.get_title(): [list(line.get_xdata()) for line in axes.lines] for axes in figure.axes}
    assert points == {'stride 32': [[50.0], [60.0]], 'stride 16': [[55.0], []]}
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ['ADL', 'HaS']


def test_scores_of_a_run(tmp_path):
    data = make_wsol(tmp_path / 'data', {'train': 16, 'val': 8, 'test': 8})
    config = train_config(
        data,
        classifier=ClassifierConfig(epochs=1, batch_size=8, method='has'),
        decoder=DecoderConfig(epochs=0),
    )
    train(config, tmp_path / 'run', quiet=True)
    (found,) = methods.score(tmp_path / 'run', data, None, test=True)
    assert (found.method, found.stride, found.seed, found.maps) == ('has', 8, 0, 'class map')
    assert json.loads(found.settings)['name'] == 'has'
    assert found.val_mean == pytest.approx((found.val_30 + found.val_50 + found.val_70) / 3, abs=0.1)
    # The threshold of val is not better than the best one of test.
    assert 0 <= found.test_at_val <= found.test_50 <= 100
    assert found.pxap is None


def test_table_of_the_docs_is_current():
    page = records.ROOT / 'docs' / 'methods.md'
    text = page.read_text(encoding='utf-8')
    assert methods.render(text) == text
