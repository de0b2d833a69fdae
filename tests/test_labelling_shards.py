"""Parquet files of a job: rows, parts, resuming, damage, and their export to annotation formats."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jobs import make_job
from PIL import Image
from scenes import SCENES, draw, label, tree

from fcam_zoo.cli import main
from fcam_zoo.data.sources.local import LocalFiles
from fcam_zoo.data.sources.store_reader import TRIES
from fcam_zoo.labelling import ClusterOptions, LabelOptions, export_labels, label_on_ray
from fcam_zoo.labelling.formats import Masks
from fcam_zoo.labelling.job_files import JobFiles, StoreError
from fcam_zoo.labelling.labeller import ImageRecord, ObjectRecord, object_mask
from fcam_zoo.labelling.rows import PartSummary, ShardError, encode, record_of, row_of, schema
from fcam_zoo.labelling.shards import ShardFolder

pq = pytest.importorskip('pyarrow.parquet')
FORMATS = ('coco', 'voc', 'yolo', 'csv', 'masks')


def rotated(photos: Path) -> None:
    """Store an image rotated, with the EXIF tag that turns it upright."""
    image = Image.open(photos / 'dim' / 'a.png')
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(photos / 'dim' / 'turned.png', exif=exif)


@pytest.fixture
def job(photos, tmp_path):
    """A finished job of three parts, with a rotated and an unreadable image."""
    rotated(photos)
    (photos / 'bright' / 'broken.png').write_bytes(b'\x89PNG')
    return make_job(photos, tmp_path / 'job', 3)


def test_rows_hold_all_that_a_record_holds(job):
    folder, written = job
    tables = [pq.read_table(folder.files.path(written.file_of(part))) for part in range(written.parts)]
    assert [table.num_rows for table in tables] == [3, 3, 1]
    assert all(table.schema.equals(schema()) for table in tables)
    found = [row for table in tables for row in table.to_pylist()]
    assert [row['id'] for row in found] == sorted([*SCENES, 'bright/broken.png', 'dim/turned.png'])
    assert [row['status'] for row in found].count('error') == 1
    turned = next(row for row in found if row['id'] == 'dim/turned.png')
    assert (turned['width'], turned['upright']['width']) == (224, 112)
    for row in found:
        known = {key: value for key, value in row.items() if value is not None}
        made = row_of(row['id'], record_of(row), written.classes)
        assert {**made, 'upright': made.get('upright')} == {**known, 'upright': row['upright']}
        if row['status'] == 'ok':
            masks = [np.repeat(np.arange(len(counts)) % 2, counts).sum() for counts in row['masks']]
            assert masks == row['areas']
            assert row['label'] == written.classes[row['label_index']]


def test_equal_rows_give_equal_files(job, photos, tmp_path):
    make_job(photos, tmp_path / 'again', 3)
    assert tree(tmp_path / 'again') == tree(tmp_path / 'job')


@pytest.mark.parametrize(
    'change',
    [
        {'status': 'maybe'},
        {'width': 50},
        {'width': None},
        {'width': 2**20, 'height': 2**20, 'boxes': [], 'object_scores': [], 'areas': [], 'masks': []},
        {'width': 0, 'height': 0, 'boxes': [], 'object_scores': [], 'areas': [], 'masks': []},
        {'boxes': [[0, 0, 5, 2]]},
        {'boxes': [[2, 0, 1, 2]]},
        {'boxes': [[-1, 0, 1, 2]]},
        {'masks': [[0, 2, -1, 0, 7]]},
        {'areas': [1]},
        {'boxes': []},
        {'score': 2.0},
        {'label_index': -1},
        {'id': None},
    ],
)
def test_rows_with_other_content_are_refused(change):
    record = ImageRecord('a', 0, 'x', 0, 0.5, (4, 2), [ObjectRecord((0, 0, 1, 2), 0.5, 2, [0, 2, 6])], (4, 2), [])
    row = row_of('a', record, ['x'])
    assert record_of(row) == record
    with pytest.raises((ValueError, TypeError)):
        record_of({**row, **change})


def test_mask_of_all_objects():
    objects = [ObjectRecord((0, 0, 1, 2), 0.5, 2, [0, 2, 6]), ObjectRecord((3, 1, 4, 2), 0.5, 1, [7, 1])]
    record = ImageRecord('a', 0, 'x', 0, 0.5, (4, 2), objects, (4, 2), [])
    assert object_mask(record).astype(int).tolist() == [[1, 0, 0, 0], [1, 0, 0, 1]]


def test_export_writes_the_files_of_predict(job, photos, tmp_path):
    done = export_labels(tmp_path / 'job', tmp_path / 'out', FORMATS)
    assert (done.labelled, len(done.errors)) == (6, 1)
    expected = label(photos, tmp_path / 'expected', FORMATS, batch_size=3)
    assert (done.objects, done.errors) == (expected.objects, expected.errors)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'expected')
    with pytest.raises(FileExistsError, match='already holds results: replace them with --overwrite'):
        export_labels(tmp_path / 'job', tmp_path / 'out', FORMATS)
    export_labels(tmp_path / 'job', tmp_path / 'out', ['csv'], overwrite=True)
    assert tree(tmp_path / 'out') == tree(tmp_path / 'expected')


def test_export_command(job, tmp_path, capsys):
    arguments = ['export-labels', str(tmp_path / 'job'), '-o', str(tmp_path / 'out'), '--quiet', '--export']
    assert main([*arguments, 'coco', 'csv']) == 1  # Because of the image that is left out.
    assert '6 images, ' in (out := capsys.readouterr().out)
    assert 'objects, 1 with an error left out: ' in out
    assert len(json.loads((tmp_path / 'out/coco/annotations.json').read_text())['images']) == 6
    for formats, message in ((['overlays'], 'overlays show the maps'), (['coco'], 'already holds results')):
        assert main([*arguments, *formats]) == 1
        assert message in (error := capsys.readouterr().err)
        assert error.count('\n') == 1


def test_yolo_copies_images_of_another_place(job, photos, tmp_path):
    moved = shutil.move(photos, tmp_path / 'moved')
    with pytest.raises(FileNotFoundError, match=r'check the path|no such|does not exist'):
        export_labels(tmp_path / 'job', tmp_path / 'out', ['yolo'])
    (moved / 'dim' / 'b c.jpg').rename(tmp_path / 'kept.jpg')
    with pytest.raises(FileNotFoundError, match=r'1 of 7 are not there \(dim/b c.jpg\): give the images with --source'):
        export_labels(tmp_path / 'job', tmp_path / 'out', ['yolo'], source=moved)
    draw(moved / 'dim' / 'b c.jpg', (50, 50), [])
    with pytest.raises(ValueError, match='50x50 pixels, but its labels are of 224x112'):
        export_labels(tmp_path / 'job', tmp_path / 'out', ['yolo'], source=moved)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['.fcam_zoo']
    (tmp_path / 'kept.jpg').rename(moved / 'dim' / 'b c.jpg')
    assert export_labels(tmp_path / 'job', tmp_path / 'out', ['yolo'], source=moved).labelled == 6


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == 'missing':
        path.unlink()
    elif how == 'truncated':
        path.write_bytes(content[: len(content) // 2])
    elif how == 'flipped':
        path.write_bytes(content[:200] + bytes([content[200] ^ 255]) + content[201:])
    elif how == 'foreign':
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({}), path)
    elif how == 'other':
        folder = ShardFolder(path.parents[1])
        rows = pq.read_table(path).to_pylist()
        path.write_bytes(encode(rows, PartSummary('another', 1, len(rows), 0, 0)))
        assert folder.job()


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('missing', r'1 of 3 parts are missing \(shards/part-000001.parquet\): .* --model fcam --ray --resume -o '),
        ('truncated', r'part-000001.parquet is damaged .* --ray --resume'),
        ('flipped', r'part-000001.parquet is damaged .* --ray --resume'),
        ('foreign', r'part-000001.parquet was not written by fcam-zoo predict --ray'),
        ('other', r'part-000001.parquet is a part of another job'),
    ],
)
def test_damaged_parts_are_refused(job, tmp_path, how, message):
    damage(tmp_path / 'job' / 'shards/part-000001.parquet', how)
    with pytest.raises(ShardError, match=message):
        export_labels(tmp_path / 'job', tmp_path / 'out', ['coco'])
    assert not (tmp_path / 'out/coco').exists()


def test_truncated_parts_are_labelled_again(job, tmp_path, caplog):
    folder, written = job
    damage(tmp_path / 'job' / 'shards/part-000001.parquet', 'truncated')
    assert folder.finished(written).keys() == {0, 2}
    assert 'part-000001.parquet is damaged' in caplog.text


def test_ids_that_occur_twice_are_refused(job, tmp_path):
    folder, written = job
    (first, result), *_ = folder.rows(written, [0])
    others = list(folder.rows(written, [2]))
    folder.write(written, 2, [first], [result if isinstance(result, str) else replace(result, image=first)])
    assert len(others) == 1
    with pytest.raises(ShardError, match=r'is in shards/part-000000.parquet and in shards/part-000002.parquet'):
        export_labels(tmp_path / 'job', tmp_path / 'out', ['csv'])


@pytest.mark.parametrize('image_id', ['../../escaped.jpg', '/escaped.jpg', 'a/../../escaped.jpg', 'a//b.jpg', '', '.'])
def test_ids_that_leave_the_output_folder_are_refused(job, tmp_path, image_id):
    folder, written = job
    results = [result for _, result in folder.rows(written, [2])]
    folder.write(written, 2, [image_id], [replace(results[0], image=image_id)])
    before = sorted(tmp_path.rglob('*'))
    for formats in (['masks'], ['voc'], ['csv']):
        with pytest.raises(ShardError, match='is not the name of an image below a folder'):
            export_labels(tmp_path / 'job', tmp_path / 'out', formats)
    made = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob('*')) - set(before)}
    assert made == {'out'}


def test_formats_write_only_below_their_folder(tmp_path):
    writer = Masks(tmp_path / 'masks', ('x',), 'fcam', LocalFiles([]))
    for path in ('../a.png', str(tmp_path / 'b.png'), 'a/../../c.png', ''):
        with pytest.raises(ValueError, match='not a path below the output folder'), writer.create(path):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('content', ['{"settings": {}}', '[]', 'no JSON', '{"a": NaN}'])
def test_damaged_job_is_refused(tmp_path, content):
    (tmp_path / 'job.json').write_text(content)
    with pytest.raises(ShardError, match=r'job\.json'):
        export_labels(tmp_path, tmp_path / 'out')


def test_folders_of_others_are_refused(photos, tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no job: give the output of fcam-zoo predict --ray'):
        export_labels(photos, tmp_path / 'out')
    (tmp_path / 'job' / 'shards').mkdir(parents=True)
    with pytest.raises(FileExistsError, match='was not written by fcam_zoo: move it away'):
        ShardFolder(tmp_path / 'job').check(overwrite=True, resume=False)
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(NotADirectoryError, match='choose another output folder'):
        ShardFolder(tmp_path / 'file').check(overwrite=True, resume=False)


def test_second_job_in_a_folder(job, tmp_path):
    folder, written = job
    with pytest.raises(FileExistsError, match='already holds a job: continue it with --resume'):
        folder.check(overwrite=False, resume=False)
    other = replace(written, settings={**written.settings, 'threshold': 0.7})
    with pytest.raises(ValueError, match=r'other settings \(threshold: 0\.5\): resume it with these'):
        folder.start(other, resume=True)
    (tmp_path / 'job/shards/.part-000001.x.parquet').write_bytes(b'half')  # Of a killed worker.
    folder.start(written, resume=True)
    assert len(folder.finished(written)) == 3
    assert folder.existing(written) == {written.file_of(part) for part in range(3)}
    started = folder.start(other, resume=False)
    assert folder.finished(started) == {}
    assert folder.job().key == other.key != written.key


def test_store_writes_again_after_errors(monkeypatch):
    fsspec = pytest.importorskip('fsspec')
    monkeypatch.setattr('fcam_zoo.data.sources.store_reader.FIRST_WAIT', 0.0)
    memory, store = fsspec.filesystem('memory'), JobFiles('memory://labels/job/')
    real, failures = type(memory).pipe_file, [OSError('HTTP 500')] * 2

    def pipe_file(self, *arguments, **options):
        if failures:
            raise failures.pop()
        return real(self, *arguments, **options)

    monkeypatch.setattr(type(memory), 'pipe_file', pipe_file)
    store.write('a/b', b'content')
    assert (store.read('a/b'), store.names('a'), store.exists('a'), store.exists('c')) == (
        b'content',
        ['b'],
        True,
        False,
    )
    failures += [OSError('HTTP 500')] * TRIES
    with pytest.raises(StoreError, match=r'memory://labels/job/a/b: the store refuses it \(HTTP 500\)'):
        store.write('a/b', b'other')
    store.remove('a')
    assert store.names('a') == []
    with pytest.raises(StoreError, match='not the URL of a known store'):
        JobFiles('nowhere://labels').read('a')


def test_missing_extra_is_one_clear_hint(job, photos, model_dir, tmp_path, monkeypatch, capsys):
    predict = ['predict', str(photos), '-m', f'local-dir:{model_dir}', '-o', str(tmp_path / 'out'), '--ray']
    export = ['export-labels', str(tmp_path / 'job'), '-o', str(tmp_path / 'out'), '--export', 'csv', '--quiet']
    for module, arguments in (('ray', predict), ('pyarrow', export)):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            assert main(arguments) == 1
        error = capsys.readouterr().err
        assert "pip install 'fcam-zoo[ray]'" in error
        assert error.count('\n') == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--shard-size', '8'], '--shard-size is for a cluster: add --ray'),
        (['--ray-workers', '2'], '--ray-workers is for a cluster: add --ray'),
        (['--ray', '--export', 'overlays'], 'overlays show the maps'),
        (['--ray', '--shard-size', '0'], 'shard_size is 0: give 1 to 10000000'),
        (['--ray', '--ray-workers', '0'], 'workers is 0: give 1 to'),
        (['--ray', '--device', 'cuda:1'], "device is 'cuda:1': workers of a cluster run on cpu, cuda or auto"),
        (['-o', 's3://bucket/labels'], 's3://bucket/labels is a URL, to which only --ray writes'),
        (['-o', 's3://bucket/labels', '--ray', '--export', 'coco'], 'run fcam-zoo export-labels afterwards'),
    ],
)
def test_arguments_of_a_cluster(photos, model_dir, tmp_path, capsys, arguments, message):
    fixed = ['predict', str(photos), '--model', f'local-dir:{model_dir}', '-o', str(tmp_path / 'out')]
    assert main([*fixed, *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1
    with pytest.raises(TypeError, match='give the path of a folder, or a URL'):
        label_on_ray(None, photos, 3, LabelOptions(), ClusterOptions())
