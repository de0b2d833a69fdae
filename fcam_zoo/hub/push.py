"""Models to the Hub."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from .._download import CONFIG, LOGIN
from .._io import write_text
from .._version import __version__
from ..errors import HubError
from ..models import FCAM
from .facts import check_facts
from .model_card import model_card
from .save import save_pretrained


def write_repository(
    model: FCAM,
    directory: str | os.PathLike,
    repo_id: str,
    *,
    half: bool = False,
    backbone_from: str | None = None,
    **facts: Any,
) -> Path:
    """Write what `push_to_hub` publishes: config.json, model.safetensors, and README.md made from the facts.

    Args:
        model: The model.
        directory: Output folder.
        repo_id: `org/name`, for the text.
        half: Store parameters in float16.
        backbone_from: See `save_pretrained`.
        **facts: For config and card: dataset (title, license, note), teacher, metrics, epochs, selection, recipe,
            license (see `hub.facts_of_run`).

    Raises:
        ValueError: When repo_id is none, or a fact is unknown or not as it should be.
        WeightsError: For a model that could not be loaded again.
    """
    try:
        validate_repo_id(repo_id)
        if '/' not in repo_id:
            raise HFValidationError('it names no user or organization')
    except HFValidationError as e:
        raise ValueError(f'repo_id {repo_id!r} is no repository id: write org/name ({e})') from e
    check_facts(facts)
    folder = save_pretrained(model, directory, half=half, backbone_from=backbone_from, **facts)
    config = json.loads((folder / CONFIG).read_text(encoding='utf-8'))
    write_text(folder / 'README.md', model_card(config, repo_id))
    return folder


def push_to_hub(model: FCAM, repo_id: str, *, private: bool = False, message: str = 'Add model', **options: Any) -> str:
    """Publish a model in timm's format with a generated card; the token is that of the Hub's client.

    A repository is made if needed; its card is replaced.

    Args:
        model: The model.
        repo_id: `org/name`.
        private: Make a new repository private.
        message: Of the commit.
        **options: Of `write_repository`: half, backbone_from, and the facts.

    Returns:
        `org/name@commit`, which `create_model('hf-hub:…')` takes.

    Raises:
        ValueError: When repo_id is none, or a fact is unknown or not as it should be.
        HubError: When the Hub cannot be reached or refuses; nothing is changed there then, but that an empty
            repository may have been made.
        WeightsError: For a model that could not be loaded again.
    """
    api = HfApi(library_name='fcam_zoo', library_version=__version__)
    with tempfile.TemporaryDirectory() as folder:
        write_repository(model, folder, repo_id, **options)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
        except (HTTPError, OSError, ValueError) as e:
            raise HubError(_explain(e, repo_id)) from e
    return f'{repo_id}@{commit.oid}'


def _explain(error: Exception, repo_id: str) -> str:
    if isinstance(error, ValueError):
        # The Hub read the card first, and says what it does not take.
        reason = ' '.join(str(error).split())
        return f'{repo_id} was not published on {constants.ENDPOINT} ({reason}): give license=… as the Hub writes it'
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404)
    mend = f'check that the account may write there, and {LOGIN}' if refused else 'check the network and try again'
    return f'{repo_id} was not published on {constants.ENDPOINT} ({reason}): {mend}'
