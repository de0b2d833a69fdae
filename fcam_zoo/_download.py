"""Downloads from the Hugging Face Hub with its own client, and errors that say how to fix a failed download."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ._io import one_line
from ._schema import show
from ._version import __version__
from ._weights import verify_file
from .errors import HubError, WeightsError

CONFIG, WEIGHTS = 'config.json', 'model.safetensors'
ID_RULE = "at most 96 letters, digits, '-', '_' and '.'"
LOGIN = 'log in with `hf auth login` or set HF_TOKEN'
_COMMIT = re.compile(r'[0-9a-f]{40}')


def split_id(repo: str) -> tuple[str, str | None]:
    """'org/name@revision' -> ('org/name', 'revision'); without @ the revision is None (the main branch)."""
    repo_id, _, revision = repo.partition('@')
    return repo_id, revision or None


def fetch(repo: str, file: str, *, cache_dir: str | os.PathLike | None = None, local_files_only: bool = False) -> Path:
    """Return the path of a file in the cache, and download it first if needed.

    Args:
        repo: 'org/name' or 'org/name@<branch, tag or commit>'.
        file: Name of the file in the repository.
        cache_dir: Download folder; default: that of the Hub's client.
        local_files_only: Use the cache only.

    Raises:
        HubError: If the file is not available; the message says why.
    """
    repo_id, revision = split_id(repo)
    cache = None if cache_dir is None else Path(cache_dir)
    try:
        path = hf_hub_download(
            repo_id,
            file,
            revision=revision,
            cache_dir=cache,
            local_files_only=local_files_only,
            library_name='fcam_zoo',
            library_version=__version__,
        )
    except (HTTPError, OSError, EntryNotFoundError, HFValidationError) as e:
        if isinstance(e, HTTPError) and not isinstance(e, HfHubHTTPError):
            # The connection failed before a response; the client does not use its cache in this case.
            cached = try_to_load_from_cache(repo_id, file, cache, revision)
            if isinstance(cached, str):
                return Path(cached)
        raise HubError(_explain(e, repo, file, local_files_only)) from e
    return Path(path)


def fetch_folder(repo: str, *, cache_dir: str | os.PathLike | None = None, local_files_only: bool = False) -> Path:
    """Return the cache folder with config.json and model.safetensors of one commit; no other file is downloaded.

    Raises:
        HubError: If a file is not available.
    """
    config = fetch(repo, CONFIG, cache_dir=cache_dir, local_files_only=local_files_only)
    # Pin the commit: another one may be pushed between the two downloads.
    pinned = f'{split_id(repo)[0]}@{commit_of(config.parent)}'
    fetch(pinned, WEIGHTS, cache_dir=cache_dir, local_files_only=local_files_only)
    return config.parent


def commit_of(folder: Path) -> str | None:
    """Return the commit of a snapshot folder in the Hub's cache; None for any other folder."""
    cached = [p.name.split('--')[0] for p in folder.parents[:2]] == ['snapshots', 'models']
    return folder.name if cached and _COMMIT.fullmatch(folder.name) else None


def repo_of(folder: Path) -> str:
    """Return the repository, `org/name`, of a snapshot folder in the Hub's cache."""
    return folder.parents[1].name.removeprefix('models--').replace('--', '/')


def verify_download(path: Path, size: int, sha256: str) -> Path:
    """Check size and SHA-256 of a file; a damaged download is removed from the cache.

    Raises:
        WeightsError: If the file is missing or differs.
    """
    try:
        return verify_file(path, size, sha256)
    except WeightsError as e:
        if commit_of(path.parent) and _discard(path):
            raise WeightsError(f'{e}. It was removed from the cache: try again to download it again') from e
        raise


def _discard(path: Path) -> bool:
    """Remove a file from the Hub's cache: the link, and its content if that is in the repository's folder."""
    content, repository = path.resolve(), path.parents[2].resolve()
    try:
        if content.is_relative_to(repository):
            content.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _explain(error: Exception, repo: str, file: str, local_files_only: bool) -> str:
    """Describe a failed download and how to fix it."""
    endpoint, repo = constants.ENDPOINT, one_line(repo, 200)
    if isinstance(error, HFValidationError):
        hint = f'write org/name or org/name@revision ({ID_RULE}), or the path of an existing folder'
        return f'{show(repo)} is not a repository id: {hint}'
    if isinstance(error, GatedRepoError):
        return f'{repo} is gated: request access on {endpoint}/{split_id(repo)[0]}, then {LOGIN}'
    if isinstance(error, RepositoryNotFoundError):
        return f'{repo} does not exist on {endpoint}, or is private: check the name, or {LOGIN}'
    if isinstance(error, RevisionNotFoundError):
        return f'{repo}: the revision does not exist on {endpoint}: give an existing branch, tag or commit'
    if isinstance(error, LocalEntryNotFoundError):
        cause = error.__cause__
        if local_files_only or isinstance(cause, OfflineModeIsEnabled):
            return f'{file} of {repo} is not in the cache, and offline mode is on: download it once while online'
        if isinstance(cause, HfHubHTTPError):
            return _explain(cause, repo, file, local_files_only)
        reason = _brief(cause or error)
        return f'{file} of {repo} is not in the cache, and {endpoint} is unreachable ({reason}): check the network'
    if isinstance(error, EntryNotFoundError):
        only = ', and pickles are never loaded' if file == WEIGHTS else ''
        return f'{repo} has no {file}{only}. An F-CAM repository contains {CONFIG} and {WEIGHTS}'
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        hint = LOGIN if status in (401, 403) else 'try again later'
        return f'{endpoint} returned HTTP status {status} for {file} of {repo}: {hint}'
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f'the disk is too full for {file} of {repo} ({error}): free space, or choose another cache_dir'
    if isinstance(error, OSError) and error.errno is not None:
        return f'the cache cannot store {file} of {repo} ({error}): choose a writable cache_dir, or set HF_HOME'
    return f'the download of {file} of {repo} failed ({_brief(error)}): try again'


def _brief(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), '') or type(error).__name__
