"""Pruning a cache with unusual contents: only unused F-CAM revisions are removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fcam_zoo import hub
from fcam_zoo.cli import main

FCAM = {'library_name': 'fcam_zoo', 'architecture': 'fcam'}


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / 'cache'


def add(cache: Path, folder: str, commit: str, config: dict | list | None, branch: str = '') -> Path:
    """Add a revision in the layout of the Hub's client, and return its folder."""
    snapshot, blob = cache / folder / 'snapshots' / (commit * 40), cache / folder / 'blobs' / commit
    for path in (snapshot, blob.parent, cache / folder / 'refs'):
        path.mkdir(parents=True, exist_ok=True)
    blob.write_text(json.dumps(config))
    (snapshot / ('model.safetensors' if config is None else 'config.json')).symlink_to(blob)
    if branch:
        (cache / folder / 'refs' / branch).write_text(commit * 40)
    return snapshot


def test_copies_with_the_same_commit_are_kept(cache):
    others = [
        add(cache, 'models--other--copy', 'a', {'architecture': 'resnet50', 'library_name': 'timm'}),
        add(cache, 'datasets--org--photos', 'b', FCAM),
        add(cache, 'datasets--org--tiny', 'a', FCAM),
        add(cache, 'models--org--fork', 'a', FCAM, branch='main'),
    ]
    ours = add(cache, 'models--org--tiny', 'a', FCAM)
    removed, _ = hub.prune(cache)
    assert [d.repo_id for d in removed] == ['org/tiny']
    assert not ours.exists()
    assert all(path.exists() for path in others)


def test_fcams_published_by_timm_are_included(cache):
    snapshot = add(cache, 'models--org--by-timm', 'a', {'architecture': 'fcam_resnet50'})
    add(cache, 'models--org--mixed', 'b', {'architecture': 'resnet50'})
    add(cache, 'models--org--mixed', 'c', FCAM)
    assert [d.commit[0] for d in hub.downloads(cache)] == ['a', 'b', 'c']
    hub.prune(cache)
    assert not snapshot.exists()


def test_unknown_contents_are_ignored(cache, capsys):
    kept = [
        add(cache, 'models--org--list', 'a', [1]),
        add(cache, 'models--org--weights', 'b', None),
        add(cache, 'models--org--number', 'c', {'architecture': 1}),
    ]
    (cache / 'models--org--empty').mkdir()
    (cache / 'models--a-file').write_text('')
    (cache / 'junk').mkdir()
    broken = cache / 'models--org--broken' / 'snapshots' / ('d' * 40)
    broken.mkdir(parents=True)
    (broken / 'config.json').symlink_to(cache / 'nowhere')
    assert main(['weights', 'prune', '--all', '--cache-dir', str(cache)]) == 0
    assert capsys.readouterr().out == '0.0 MB freed\n'
    assert all(path.exists() for path in (*kept, broken))
