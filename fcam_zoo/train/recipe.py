"""Read recipes: files of settings, packaged recipes, and those of released models."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from .. import _index
from .._catalog import RECIPES, recipe_names
from .._schema import parse_json, read_bytes, reading
from .._yaml import parse_yaml
from ..errors import SettingsError
from ..models.names import full_name

FIX = 'write lines like `backbone: resnet50`'
# Settings of earlier versions (alpha is also the paper's name), and what to do with them.
RENAMED = {
    'decoder.alpha': 'decoder.seed_weight',
    'decoder.crf': 'decoder.crf_weight',
    'decoder.size': 'decoder.size_weight',
    'decoder.seeds': 'decoder.n_seeds',
    'decoder.cell_shift': 'decoder.shift',
}
FORMER = {old: f'rename it to {new}' for old, new in RENAMED.items()} | {
    'decoder.align': 'delete it (see docs/experiments.md) and use decoder.shift'
}
# Settings that earlier versions had in another part.
MOVED = {'decoder.variant': 'teacher.variant'}


def recipe_path(recipe: str | os.PathLike) -> Path:
    """Return the file of a recipe: that of the package if it is one of `recipe_names` or a released model."""
    if (name := full_name(str(recipe))) in _index.index():
        return _index.recipe_path(name)
    return RECIPES / f'{recipe}.yaml' if str(recipe) in recipe_names() else Path(recipe)


def read_recipe(recipe: str | os.PathLike) -> Any:
    """Read the values that a recipe sets, which are not checked yet.

    Args:
        recipe: A YAML or JSON file, a packaged recipe (`recipe_names`), or the name of a released model.

    Raises:
        FileNotFoundError: When the recipe does not exist.
        SettingsError: When the file is neither YAML nor JSON.
    """
    path = recipe_path(recipe)
    with reading(path, SettingsError, FIX):
        if not path.exists():
            similar = difflib.get_close_matches(str(recipe)[:100], [*recipe_names(), *_index.index()], 1)
            raise FileNotFoundError(
                f'recipe {recipe} does not exist: give a file, a released model, or one of {", ".join(recipe_names())}.'
                f'{f" Did you mean {similar[0]}?" if similar else ""}'
            )
        text = read_bytes(path).decode('utf-8-sig')
        return parse_json(text) if text.lstrip().startswith('{') else parse_yaml(text)
