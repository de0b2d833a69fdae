"""Downloads of F-CAMs in the Hub's cache: what lies there, and what can go."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CacheNotFound, constants, scan_cache_dir
from huggingface_hub.utils import CachedRepoInfo

from .. import _index
from .._download import CONFIG, split_id


class Download(NamedTuple):
    """A revision of a repository in the cache.

    Attributes:
        repo_id: `org/name`.
        commit: Its 40 digits.
        size: Bytes on the disk; revisions share files.
        in_use: A branch or tag is at it, or the index names it.
    """

    repo_id: str
    commit: str
    size: int
    in_use: bool


def downloads(cache_dir: str | os.PathLike | None = None) -> list[Download]:
    """Revisions of F-CAM repositories in the cache, those of other libraries left out."""
    try:
        cache = scan_cache_dir(cache_dir or constants.HF_HUB_CACHE)
    except CacheNotFound:
        return []
    pinned = {split_id(entry['hf_hub_id']) for entry in _index.index().values() if 'hf_hub_id' in entry}
    return [
        Download(
            repo.repo_id,
            revision.commit_hash,
            revision.size_on_disk,
            bool(revision.refs) or (repo.repo_id, revision.commit_hash) in pinned,
        )
        for repo in sorted(cache.repos, key=lambda r: r.repo_id)
        if repo.repo_id in {repo_id for repo_id, _ in pinned} or _is_ours(repo)
        for revision in sorted(repo.revisions, key=lambda r: r.last_modified)
    ]


def prune(
    cache_dir: str | os.PathLike | None = None, *, everything: bool = False, dry_run: bool = False
) -> tuple[list[Download], int]:
    """Remove downloaded revisions that neither a branch nor the index needs any more.

    Args:
        cache_dir: Folder of downloads; default: that of the Hub's client.
        everything: Remove those in use too.
        dry_run: Remove nothing, only say what would go.

    Returns:
        What went, and how many bytes that frees.
    """
    gone = [d for d in downloads(cache_dir) if everything or not d.in_use]
    if not gone:
        return [], 0
    strategy = scan_cache_dir(cache_dir or constants.HF_HUB_CACHE).delete_revisions(*(d.commit for d in gone))
    if not dry_run:
        strategy.execute()
    return gone, strategy.expected_freed_size


def _is_ours(repo: CachedRepoInfo) -> bool:
    """Whether a cached config.json of a repository is that of an F-CAM."""
    for revision in repo.revisions:
        try:
            config = json.loads((Path(revision.snapshot_path) / CONFIG).read_text(encoding='utf-8'))
            return config.get('library_name') == 'fcam_zoo'
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
    return False
