"""Publish models on the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from .._download import CONFIG, ID_RULE, LOGIN
from .._io import write_text
from .._schema import show
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
    """Write the files that `push_to_hub` uploads: config.json, model.safetensors, and README.md (the model card).

    Args:
        model: The model.
        directory: Output folder.
        repo_id: `org/name`, which the card mentions.
        half: Store parameters in float16.
        backbone_from: See `save_pretrained`.
        **facts: Fields of config and card: backbone, dataset (title, license, note), teacher, metrics, epochs,
            selection, recipe, license. `hub.facts_of_run` reads them from a training.

    Raises:
        ValueError: If repo_id is invalid, or a fact is unknown or invalid.
        WeightsError: If the model could not be loaded again.
    """
    try:
        validate_repo_id(repo_id)
        if '/' not in repo_id:
            raise HFValidationError('the user or organization is missing')
    except HFValidationError as e:
        raise ValueError(f'repo_id {show(repo_id)} is not a repository id: write org/name ({ID_RULE})') from e
    check_facts(facts)
    folder = save_pretrained(model, directory, half=half, backbone_from=backbone_from, **facts)
    config = json.loads((folder / CONFIG).read_text(encoding='utf-8'))
    write_text(folder / 'README.md', model_card(config, repo_id))
    return folder


def push_to_hub(model: FCAM, repo_id: str, *, private: bool = False, message: str = 'Add model', **options: Any) -> str:
    """Publish a model in timm's format with a generated model card.

    The repository is created if needed, and its card is replaced. The token is that of the Hub's client.

    Args:
        model: The model.
        repo_id: `org/name`.
        private: Create a new repository as private.
        message: Commit message.
        **options: Arguments of `write_repository`: half, backbone_from, and the facts.

    Returns:
        `org/name@commit`, for `create_model('hf-hub:…')`.

    Raises:
        ValueError: If repo_id is invalid, or a fact is unknown or invalid.
        HubError: If the Hub is unreachable or refuses. Nothing is uploaded then, but an empty repository may have been
            created.
        WeightsError: If the model could not be loaded again.
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
        # The Hub validates the card first.
        reason = ' '.join(str(error).split())
        return f'{repo_id} was not published on {constants.ENDPOINT} ({reason}): give a license identifier of the Hub'
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    refused = isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404)
    hint = f'check that the account has write access, and {LOGIN}' if refused else 'check the network and try again'
    return f'{repo_id} was not published on {constants.ENDPOINT} ({reason}): {hint}'
