"""Downloaded F-CAMs in the cache of the Hub's client: list and remove them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CacheNotFound, HFCacheInfo, constants, scan_cache_dir
from huggingface_hub.utils import CachedRepoInfo

from .. import _index
from .._download import CONFIG, split_id
from .._schema import LOW_LEVEL, read_json


class Download(NamedTuple):
    """One revision of a repository in the cache.

    Attributes:
        repo_id: `org/name`.
        commit: Hash of 40 hexadecimal digits.
        size: Bytes on disk, including files that revisions share.
        in_use: A branch or tag points to it, or the index of released weights refers to it.
    """

    repo_id: str
    commit: str
    size: int
    in_use: bool


def downloads(cache_dir: str | os.PathLike | None = None) -> list[Download]:
    """List the downloaded revisions of F-CAM repositories, but not those of other libraries."""
    return [download for cache in _repositories(cache_dir) for download in _revisions(cache)]


def prune(
    cache_dir: str | os.PathLike | None = None, *, everything: bool = False, dry_run: bool = False
) -> tuple[list[Download], int]:
    """Remove downloaded revisions that are not in use.

    Args:
        cache_dir: Download folder; default: that of the Hub's client.
        everything: Also remove revisions in use.
        dry_run: Remove nothing.

    Returns:
        The removed revisions, and the number of bytes freed.
    """
    removed, freed = [], 0
    for cache in _repositories(cache_dir):
        unused = [d for d in _revisions(cache) if everything or not d.in_use]
        strategy = cache.delete_revisions(*(d.commit for d in unused))
        if not dry_run:
            strategy.execute()
        removed += unused
        freed += strategy.expected_freed_size
    return removed, freed


def _repositories(cache_dir: str | os.PathLike | None) -> list[HFCacheInfo]:
    """Split the cache into one per F-CAM repository, since a copy of a repository has the same commits."""
    try:
        cache = scan_cache_dir(Path(cache_dir or constants.HF_HUB_CACHE))
    except CacheNotFound:
        return []
    named = {repo_id for repo_id, _ in _pinned()}
    ours = [r for r in cache.repos if r.repo_type == 'model' and (r.repo_id in named or _is_ours(r))]
    return [replace(cache, repos=frozenset({r})) for r in sorted(ours, key=lambda r: r.repo_id)]


def _revisions(cache: HFCacheInfo) -> list[Download]:
    return [
        Download(
            repo.repo_id,
            revision.commit_hash,
            revision.size_on_disk,
            bool(revision.refs) or (repo.repo_id, revision.commit_hash) in _pinned(),
        )
        for repo in cache.repos
        for revision in sorted(repo.revisions, key=lambda r: r.last_modified)
    ]


def _pinned() -> set[tuple[str, str | None]]:
    """Return repositories and commits that the index of released weights refers to."""
    return {split_id(entry.hf_hub_id) for entry in _index.index().values() if entry.hf_hub_id}


def _is_ours(repo: CachedRepoInfo) -> bool:
    """Whether a cached config.json of the repository describes an F-CAM."""
    for revision in repo.revisions:
        try:
            config = read_json(Path(revision.snapshot_path) / CONFIG)
            if config['architecture'].split('_')[0] == 'fcam':
                return True
        except (OSError, *LOW_LEVEL):
            continue
    return False
