"""The viewer: its results, and the page in a browser."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fcam_zoo
from fcam_zoo._catalog import GENERAL_MODEL
from fcam_zoo._photos import PHOTOS
from fcam_zoo.cli import main

gr = pytest.importorskip('gradio')
app = pytest.importorskip('fcam_zoo.app')

MODEL = fcam_zoo.list_models(pretrained=True)[0]


@pytest.fixture
def photo(tmp_path) -> Path:
    data = pytest.importorskip('skimage.data')
    path = tmp_path / 'a cat.png'
    Image.fromarray(data.chelsea()).save(path)
    return path


def test_results_equal_localize(photo):
    cam, fcam, mask, rows, annotation = app.show(str(photo), MODEL, 'layercam', 0.5, False, True)
    (found,) = fcam_zoo.localize(fcam_zoo.create_model(MODEL, pretrained=True), photo, 0.5, multi=True)
    assert cam.size == fcam.size == found.size
    assert ((mask == 255) == found.object_mask()).all()
    assert [tuple(row[2:]) for row in rows] == [region.box for region in found.objects]
    coco = json.loads(Path(annotation).read_text())
    assert coco['images'][0]['file_name'] == 'a cat.png'
    x, y, width, height = coco['annotations'][0]['bbox']
    assert (x, y, x + width, y + height) == found.box
    assert not np.array_equal(np.asarray(cam), np.asarray(app.show(str(photo), MODEL, 'cam', 0.5, False, True)[0]))
    assert app.show(None, MODEL, 'cam', 0.5, False, False) == (None, None, None, [], None)


def test_the_page_starts_with_the_general_model():
    first, *others = app.default_models()
    assert first == GENERAL_MODEL
    assert {first, *others} == set(fcam_zoo.list_models(pretrained=True))
    page = app.build()
    (chosen,) = (block for block in page.blocks.values() if getattr(block, 'label', '') == 'Model')
    assert chosen.value == GENERAL_MODEL
    texts = [block.value for block in page.blocks.values() if isinstance(block, gr.Markdown)]
    assert app.knowledge(GENERAL_MODEL) in texts


def test_examples_are_the_photographs(monkeypatch):
    pytest.importorskip('skimage')
    blocks = app.build([MODEL]).blocks.values()
    (found,) = (block for block in blocks if isinstance(block, gr.Dataset))
    paths = [row[0]['path'] if isinstance(row[0], dict) else row[0] for row in found.samples]
    assert [Path(path).name for path in paths] == [*PHOTOS.values()]
    monkeypatch.setitem(sys.modules, 'skimage', None)
    assert not any(isinstance(block, gr.Dataset) for block in app.build([MODEL]).blocks.values())


def test_the_page_says_what_a_model_knows(model_dir):
    text = app.knowledge('fcam_mobilenetv1_075_cub50')
    assert text.startswith('Trained on CUB-200-2011, first 50 classes. 50 classes: 001.Black_footed_Albatross, ')
    assert ' and others. It may find other objects' in text
    assert app.knowledge(str(model_dir)).startswith('2 classes: square, disc. It may find other objects')
    assert app.settings(str(model_dir), 'cpu') == (app.load(str(model_dir)).threshold, app.knowledge(str(model_dir)))


def test_errors_name_the_file_but_not_its_folder(photo, tmp_path, monkeypatch):
    (tmp_path / 'cut.png').write_bytes(photo.read_bytes()[:500])
    with pytest.raises(gr.Error, match=r'cut\.png: cannot be read') as caught:
        app.show(str(tmp_path / 'cut.png'), MODEL, 'cam', 0.5, False, False)
    assert str(tmp_path) not in str(caught.value)
    monkeypatch.setattr(app, 'MAX_PIXELS', 1000)
    with pytest.raises(gr.Error, match='more than the limit of 1000'):
        app.show(str(photo), MODEL, 'cam', 0.5, False, False)


def test_old_results_are_deleted(monkeypatch):
    old = app.result_folder()
    monkeypatch.setattr(app, 'KEEP_SECONDS', -1)
    new = app.result_folder()
    assert new.is_dir()
    assert not old.exists()


def test_command_listens_on_localhost(monkeypatch, capsys):
    passed = {}
    monkeypatch.setattr(gr.Blocks, 'launch', lambda page, **options: passed.update(options))
    assert main(['app', '--port', '7999']) == 0
    assert passed['server_name'] == '127.0.0.1'
    assert passed['share'] is False
    assert passed['max_file_size'] == app.MAX_UPLOAD
    assert main(['app', '--device', 'warp']) == 1
    assert "device 'warp' cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('address', 'message'),
    [
        (['--host', 'no such host'], "host 'no such host', port any: the viewer cannot listen there"),
        (['--host', 'x' * 100], 'not a name or an address'),
        (['--port', '{used}'], 'Address already in use'),
    ],
)
def test_wrong_addresses_are_refused_at_once(address, message, capsys):
    with socket.create_server(('127.0.0.1', 0)) as server:
        assert main(['app', *(text.format(used=server.getsockname()[1]) for text in address)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
OWN = ('http://127.0.0.1', 'http://localhost', 'data:', 'blob:')
QUIET = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run']
QUIET += ['--disable-background-networking', '--disable-component-update', '--disable-sync']


@pytest.fixture
def served():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    _, url, _ = app.launch([MODEL], port=port, prevent_thread_lock=True, quiet=True)
    yield url
    gr.close_all(verbose=False)


@pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')
@pytest.mark.timeout(600)
def test_page_in_a_browser(photo, served, tmp_path):
    playwright = pytest.importorskip('playwright.sync_api')
    foreign = []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={'width': 1400, 'height': 1100})
        page.set_default_timeout(120_000)
        page.on('request', lambda r: foreign.append(r.url) if not r.url.startswith(OWN) else None)
        page.goto(served)
        page.set_input_files('input[type=file]', photo)
        masks = page.locator('#mask img')
        masks.wait_for()
        before = masks.get_attribute('src')
        with page.expect_download() as started:
            page.get_by_text('Download the annotation').click()
        started.value.save_as(tmp_path / 'coco.json')
        coco = json.loads((tmp_path / 'coco.json').read_text())
        expected = app.show(str(photo), MODEL, 'layercam', app.load(MODEL).threshold, False, False)
        assert coco['annotations'] == json.loads(Path(expected[-1]).read_text())['annotations']
        slider = page.locator('input[type=range]')
        slider.fill('0.2')
        slider.dispatch_event('pointerup')
        page.wait_for_function("before => document.querySelector('#mask img').src !== before", arg=before)
        page.screenshot(path=tmp_path / 'page.png', full_page=True)
        browser.close()
    assert foreign == []
