"""A journal with damaged bytes or wrong values: its intact part is used, or one error says how to continue."""

from __future__ import annotations

import json
import logging
import random
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from scenes import label, tree

from fcam_zoo.errors import FcamZooError, OutputError
from fcam_zoo.labelling import run as run_module
from fcam_zoo.labelling.journal import seal, unseal
from fcam_zoo.labelling.labeller import ImageRecord, ObjectRecord

JOURNAL = '.fcam_zoo/unfinished/journal.jsonl'


@pytest.fixture
def unfinished(photos, tmp_path, monkeypatch) -> Path:
    """Output folder of a run that was interrupted after three of five images."""
    real = run_module.Journal.add

    def add(self, batch):
        if self.done == 3:
            raise KeyboardInterrupt
        real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(run_module.Journal, 'add', add)
        with pytest.raises(KeyboardInterrupt):
            label(photos, tmp_path / 'out', ['csv'], batch_size=1)
    return tmp_path / 'out'


@pytest.fixture
def expected(photos, tmp_path) -> dict[str, bytes]:
    label(photos, tmp_path / 'new', ['csv'], batch_size=1)
    return tree(tmp_path / 'new')


def line(value: dict | list) -> bytes:
    """A line with a valid checksum."""
    return json.dumps(seal(value)).encode() + b'\n'


def values(journal: Path) -> list:
    return [unseal(json.loads(text)) for text in journal.read_bytes().splitlines()]


def resume_or_discard(photos: Path, output: Path) -> str | None:
    """Resume a run; if this is refused, discard it and return the error."""
    try:
        label(photos, output, ['csv'], batch_size=1, resume=True)
    except (FcamZooError, ValueError) as e:
        refusal = str(e)
    else:
        return None
    label(photos, output, ['csv'], batch_size=1, overwrite=True)
    return refusal


@pytest.mark.parametrize(
    'damage', ['flip', 'not UTF-8', 'nested', 'types', 'NaN', 'digits', 'number', 'zeros', 'swapped']
)
def test_damaged_line_is_labelled_again(photos, unfinished, expected, damage, caplog):
    journal = unfinished / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    text = lines[2]
    lines[2] = {
        'flip': text.replace(b'"probability"', b'"pr0bability"'),
        'not UTF-8': text.replace(b'"image"', b'"\xff\xfe"'),
        'nested': b'[' * 100_000 + b'\n',
        'types': line([{'image': 5}]),
        'NaN': b'[{"image":NaN}]\n',
        'digits': b'[' + b'9' * 6000 + b']\n',
        'number': b'5\n',
        'zeros': bytes(len(text) - 1) + b'\n',
        'swapped': text.replace(b'bright', b'BRIGHT'),
    }[damage]
    journal.write_bytes(b''.join(lines))
    with caplog.at_level(logging.WARNING, 'fcam_zoo'):
        label(photos, unfinished, ['csv'], batch_size=1, resume=True)
    assert tree(unfinished) == expected
    assert 'journal.jsonl is damaged' in caplog.text


@pytest.mark.parametrize(
    'change',
    [
        lambda record: record | {'image': 'other.png'},
        lambda record: record | {'label': 2},
        lambda record: record | {'label': -1},
        lambda record: record | {'label': True},
        lambda record: record | {'objects': 'none'},
        lambda record: record | {'objects': [{'box': [0, 0, 1], 'score': 1, 'area': 1, 'counts': []}]},
        lambda record: record | {'objects': [{'box': [0, 0, 1, 1], 'score': 'x', 'area': 1, 'counts': []}]},
        lambda record: record | {'objects': [{'box': [0, 0, 1, 1], 'score': 1e300, 'area': 1, 'counts': [2**70]}]},
        lambda record: record | {'further': 1},
        lambda record: {},
        lambda record: 5,
        lambda record: None,
        lambda record: [record],
    ],
)
def test_records_of_wrong_values_are_never_exported(photos, unfinished, expected, change):
    """With a valid checksum: they are labelled again, or the run is refused."""
    journal = unfinished / JOURNAL
    settings, *batches = values(journal)
    batches[1] = [change(batches[1][0])]
    journal.write_bytes(b''.join(map(line, [settings, *batches])))
    refusal = resume_or_discard(photos, unfinished)
    assert refusal is None or 'journal.jsonl is damaged: discard the run with --overwrite' in refusal
    assert tree(unfinished) == expected


@pytest.mark.parametrize(
    'first',
    [line({}), line([]), line({'version': {'deep': []}}), b'{}\n', b'5\n', b'null\n', b'"text"\n', b'\xff\n', b'\n'],
)
def test_damaged_settings_never_end_in_another_error(photos, unfinished, expected, first):
    journal = unfinished / JOURNAL
    rest = journal.read_bytes().splitlines(keepends=True)[1:]
    journal.write_bytes(first + b''.join(rest))
    refusal = resume_or_discard(photos, unfinished)
    assert refusal is None or ('with other settings' in refusal and 'discard it with --overwrite' in refusal)
    assert tree(unfinished) == expected


def test_more_records_than_images_are_refused(photos, unfinished):
    journal = unfinished / JOURNAL
    settings, *batches = values(journal)
    journal.write_bytes(b''.join(map(line, [settings, *batches * 2])))
    with pytest.raises(
        FcamZooError, match=r'is damaged: discard the run with --overwrite \(in Python overwrite=True\)'
    ):
        label(photos, unfinished, ['csv'], batch_size=1, resume=True)


def test_damaged_journal_of_a_run_whose_files_are_written(photos, tmp_path, monkeypatch):
    def fail(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module.OutputFolder, 'publish', fail)
        with pytest.raises(KeyboardInterrupt):
            label(photos, tmp_path / 'out', ['csv'], batch_size=1)
    journal = tmp_path / 'out' / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b''.join([*lines[:3], b'damaged\n', *lines[4:]]))
    with pytest.raises(FcamZooError, match='is damaged: discard the run with --overwrite'):
        label(photos, tmp_path / 'out', ['csv'], batch_size=1, resume=True)
    assert label(photos, tmp_path / 'out', ['csv'], batch_size=1, overwrite=True).labelled == 5


def test_journal_that_is_a_folder(photos, unfinished, expected):
    (unfinished / JOURNAL).unlink()
    (unfinished / JOURNAL).mkdir()
    label(photos, unfinished, ['csv'], batch_size=1, resume=True)
    assert tree(unfinished) == expected


def test_random_damage(photos, unfinished, expected, tmp_path):
    rng = random.Random(0)
    whole = (unfinished / JOURNAL).read_bytes()
    shutil.copytree(unfinished, tmp_path / 'copy')
    for _ in range(30):
        content = bytearray(whole)
        for _ in range(rng.randint(1, 5)):
            at = rng.randrange(len(content))
            content[at : at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        shutil.rmtree(unfinished)
        shutil.copytree(tmp_path / 'copy', unfinished)
        (unfinished / JOURNAL).write_bytes(content)
        label(photos, unfinished, ['csv'], batch_size=1, resume=True)
        assert tree(unfinished) == expected


def test_error_of_the_system_is_explained_and_documented(photos, tmp_path):
    with pytest.raises(OutputError, match='File name too long; use a shorter path') as caught:
        label(photos, tmp_path / ('n' * 300), ['csv'])
    assert isinstance(caught.value, OSError)
    assert Path(caught.value.filename).is_relative_to(tmp_path)


def test_a_record_is_converted_like_a_dataclass_and_back():
    found = ObjectRecord((1, 2, 3, 4), 0.5, 4, [6, 2, 1, 2])
    record = ImageRecord('a/b.jpg', 1, 'cat', 0, 0.25, (4, 3), [found], (3, 4), [found, found])
    assert json.dumps(record.to_json()) == json.dumps(asdict(record))
    assert ImageRecord.from_json(record.to_json()) == record
