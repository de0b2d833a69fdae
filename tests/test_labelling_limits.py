"""Large images: pixels in flight are bounded, and a run ends soon after a signal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import ClassVar

import numpy as np
import pytest
import torch
from glow import Glow
from PIL import Image
from scenes import draw, label, tree

from fcam_zoo import _drawing, viz
from fcam_zoo._threads import threads
from fcam_zoo.data import open_source
from fcam_zoo.inference import InferenceOptions
from fcam_zoo.labelling import LabelOptions, label_images, loading, pipeline
from fcam_zoo.labelling.budget import PIXELS, PixelBudget
from fcam_zoo.labelling.labeller import Labeller
from fcam_zoo.labelling.loading import ImageReader
from fcam_zoo.localization import Localization


def read_batches(source, batch_size: int, workers: int):
    """Read all images, at most two batches ahead."""
    reader = ImageReader(source, InferenceOptions((64,)), PixelBudget())
    with threads(workers) if workers else nullcontext() as pool:
        yield from reader.read_batches(range(len(source)), batch_size, pool, 2)


def test_budget_bounds_the_pixels_in_flight():
    budget, lock, used, peak = PixelBudget(100), threading.Lock(), [0], []

    def work(pixels: int) -> None:
        with budget.reserve(pixels):
            with lock:
                used[0] += pixels
                peak.append(used[0])
            time.sleep(0.01)
            with lock:
                used[0] -= pixels

    threads = [threading.Thread(target=work, args=(pixels,)) for pixels in (30, 60, 30, 60, 30, 100, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert used[0] == 0
    assert max(peak) <= 100


def test_budget_lets_an_image_above_the_limit_pass_alone():
    budget = PixelBudget(100)

    def use(pixels: int) -> None:
        with budget.reserve(pixels):
            pass

    for first, then in ((500, 1), (1, 500), (60, 41)):
        thread = threading.Thread(target=use, args=(then,))
        with suppress(KeyboardInterrupt), budget.reserve(first):
            thread.start()
            thread.join(0.1)
            assert thread.is_alive()
            raise KeyboardInterrupt
        thread.join(60)
        assert not thread.is_alive()
    with budget.reserve(60), budget.reserve(40):
        pass


def test_large_images_are_finished_one_at_a_time(photos, tmp_path, monkeypatch):
    """The budget is smaller than each image; results are those of an unlimited run."""
    label(photos, tmp_path / 'new', workers=2)
    monkeypatch.setattr(PixelBudget.__init__, '__defaults__', (1,))
    running, most = [0], [0]
    real = Labeller.label

    def one(self, *arguments):
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.02)
        running[0] -= 1
        return real(self, *arguments)

    monkeypatch.setattr(Labeller, 'label', one)
    assert label(photos, tmp_path / 'out', workers=2).labelled == 5
    assert most == [1]
    assert tree(tmp_path / 'out') == tree(tmp_path / 'new')


def test_images_are_decoded_within_the_budget(photos, monkeypatch):
    reserved = []
    real = PixelBudget.reserve

    def reserve(self, pixels):
        reserved.append(pixels)
        return real(self, pixels)

    monkeypatch.setattr(PixelBudget, 'reserve', reserve)
    source = open_source(photos)
    (batch,) = read_batches(source, 8, 0)
    assert len(batch) == len(reserved) == 5
    assert sorted(reserved) == sorted(np.prod(Image.open(path).size) for path in source.paths)
    assert 80_000_000 <= PIXELS <= 120_000_000


@pytest.mark.parametrize('workers', [0, 2])
def test_errors_of_the_package_are_not_errors_of_an_image(photos, monkeypatch, workers):
    def prepare(self, image):
        raise RuntimeError('a mistake')

    monkeypatch.setattr(InferenceOptions, 'prepare', prepare)
    source = open_source(photos)
    with pytest.raises(RuntimeError, match='a mistake'):
        next(read_batches(source, 8, workers))


def test_an_image_that_is_too_large_for_the_memory_is_an_error_of_this_image(photos, monkeypatch):
    def prepare(self, image):
        raise MemoryError

    monkeypatch.setattr(InferenceOptions, 'prepare', prepare)
    source = open_source(photos)
    (errors,) = read_batches(source, 8, 0)
    text = 'not enough memory to scale it; make the file smaller, or use fewer workers'
    assert errors == [f'{source.describe(index)}: {text}' for index in range(len(source))]


@pytest.mark.parametrize('batch_size', [1, 3, 64])
@pytest.mark.parametrize('workers', [0, 1, 3])
def test_batches_are_in_order_and_read_ahead_by_a_limited_number(tmp_path, monkeypatch, batch_size, workers):
    for i in range(40):
        draw(tmp_path / f'{i:02d}.png', (8 + i, 8), [])
    real, begun = ImageReader.read, []

    def read(self, index):
        begun.append(index)
        return real(self, index)

    monkeypatch.setattr(ImageReader, 'read', read)
    done = []
    for batch in read_batches(open_source(tmp_path), batch_size, workers):
        done += batch
        assert len(begun) <= len(done) + (2 * batch_size if workers else 0)
    assert [image.index for image in done] == list(range(40))
    assert [image.size[0] for image in done] == [8 + i for i in range(40)]


def test_closing_the_batches_waits_for_images_being_read_and_leaves_out_the_rest(photos, monkeypatch):
    begun, ended, end = [], [], threading.Event()

    def slow(image):
        begun.append(image)
        assert end.wait(60)
        ended.append(image)
        return image, 1

    monkeypatch.setattr(loading, 'decode_stored', slow)
    (photos / 'text.png').write_text('no image')
    source = open_source([photos / 'text.png', photos])
    batches = read_batches(source, 1, 2)
    assert 'text.png' in next(batches)[0]
    while len(begun) < 2:
        time.sleep(0.01)
    real = ThreadPoolExecutor.shutdown

    def shutdown(self, wait=True, **options):
        real(self, wait=False, **options)  # Leaves out those that did not start.
        end.set()
        real(self, wait=wait)

    monkeypatch.setattr(ThreadPoolExecutor, 'shutdown', shutdown)
    batches.close()
    assert len(begun) == len(ended) == 2 < len(source) - 1


def test_jobs_that_did_not_start_are_left_out_after_an_error(tmp_path, monkeypatch):
    for i in range(8):
        draw(tmp_path / 'in' / f'{i}.png', (56, 56), [])
    started = []

    def slow(self, loaded, *arguments):
        started.append(loaded.index)
        time.sleep(0.2)
        raise OSError('full')

    monkeypatch.setattr(Labeller, 'label', slow)
    with pytest.raises(OSError, match='full'):
        label(tmp_path / 'in', tmp_path / 'out')
    assert len(started) < 8


INTERRUPTED = """
import signal, sys, time, fcam_zoo.cli.predict as predict
signal.signal(signal.SIGINT, signal.default_int_handler)  # Background jobs of a shell ignore it.
predict.GRACE_SECONDS = 0.5
with predict._interruptible():
    try:
        print('ready', flush=True)
        time.sleep(300)
    except KeyboardInterrupt:
        {after}
sys.exit(7)
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(('after', 'status'), [('time.sleep(300)', 130), ('pass', 7)])
def test_process_that_does_not_stop_exits_after_a_grace_time(number, after, status):
    command = [sys.executable, '-c', INTERRUPTED.format(after=after)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == 'ready\n'
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert error == ('fcam-zoo: interrupted; finished work is kept: continue with --resume\n' if status == 130 else '')


def test_overlay_is_drawn_in_strips(monkeypatch):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (37, 50, 3), np.uint8))
    score_map, mask = rng.random((37, 50), np.float32), np.ones((37, 50), bool)
    found = Localization('a', 0.5, (2, 3, 40, 30), mask, score_map, (50, 37), 0)
    whole = np.asarray(viz.overlay(image, found))
    monkeypatch.setattr(_drawing, '_STRIP', 120)
    np.testing.assert_array_equal(np.asarray(viz.overlay(image, found)), whole)
    assert viz.blend(image, score_map[:5, :7]).size == image.size


def test_captions_are_one_short_line():
    image = Image.new('RGB', (300, 200))
    short = np.asarray(viz.draw_box(image, (10, 10, 290, 190), 'a' * 79 + '…'))
    for text in ('a' * 10**6, 'a' * 100 + '\nsecond line' * 9):
        np.testing.assert_array_equal(np.asarray(viz.draw_box(image, (10, 10, 290, 190), text)), short)
    viz.draw_box(image, (10, 10, 290, 190), '\n\n')


class Exclusive(Glow):
    """Fails when two threads run it at the same time; notes the copies and torch's threads."""

    copies: ClassVar[dict[int, int]] = {}

    def __init__(self) -> None:
        super().__init__(56)
        self.busy = False

    def forward(self, x):
        assert not self.busy
        self.busy = True
        self.copies[id(self)] = torch.get_num_threads()
        time.sleep(0.05)
        self.busy = False
        return super().forward(x)


@pytest.mark.parametrize(('threads', 'expected'), [(4, [2, 2]), (1, [1])])
def test_two_networks_share_the_threads_of_a_cpu(tmp_path, monkeypatch, threads, expected):
    for number in range(8):
        draw(tmp_path / 'photos' / f'{number}.png', (60, 50), [(number, 10, 40, 45)])
    one = label(tmp_path / 'photos', tmp_path / 'one', batch_size=1)
    monkeypatch.setattr(Exclusive, 'copies', {})
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        done = label_images(Exclusive(), tmp_path / 'photos', tmp_path / 'two', LabelOptions(batch_size=1))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert list(Exclusive.copies.values()) == expected
    assert done.labelled == one.labelled == 8
    found = json.loads((tmp_path / 'two/coco/annotations.json').read_text())
    assert [image['file_name'] for image in found['images']] == [f'{number}.png' for number in range(8)]
    assert all(entry['bbox'][0] in (entry['image_id'] - 1, entry['image_id'] - 2) for entry in found['annotations'])


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures('four_threads')
def test_one_network_has_all_threads(tmp_path, monkeypatch):
    """With a single batch there is nothing to share, and some models cannot be copied."""
    for number in range(2):
        draw(tmp_path / 'photos' / f'{number}.png', (60, 50), [(number, 10, 40, 45)])
    monkeypatch.setattr(Exclusive, 'copies', {})
    label_images(Exclusive(), tmp_path / 'photos', tmp_path / 'one', LabelOptions(batch_size=2))
    assert list(Exclusive.copies.values()) == [4]
    model = Exclusive()
    model.kept = torch.ones(1, requires_grad=True) * 2
    monkeypatch.setattr(Exclusive, 'copies', {})
    assert label_images(model, tmp_path / 'photos', tmp_path / 'two', LabelOptions(batch_size=1)).labelled == 2
    assert list(Exclusive.copies.values()) == [4]


@pytest.mark.usefixtures('four_threads')
def test_threads_are_restored_after_the_last_of_several_runs():
    model = torch.nn.Linear(1, 1)
    first, second = pipeline._networks(model, 2), pipeline._networks(model, 2)
    with first:
        second.__enter__()
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 2
    second.__exit__(None, None, None)
    assert torch.get_num_threads() == 4
