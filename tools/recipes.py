"""Recipes of the released models: the settings that repeat a training."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

import yaml

from fcam_zoo import _index
from fcam_zoo._io import write_text
from fcam_zoo.hub.facts import NETWORK_SETTINGS, PRIVATE_SETTINGS
from fcam_zoo.train import TrainConfig

logger = logging.getLogger(__name__)
# Settings of the machine, and those that the command of a recipe has.
MACHINE_SETTINGS = tuple(name for name in PRIVATE_SETTINGS if name != 'init')
LOCAL = 'local-dir:'


def write_recipe(name: str, run_dir: Path, base: str, overwrite: bool = False) -> None:
    """Write the recipe of a released model: all settings of its training, except those of the machine.

    A file that exists is kept, because it may be written by hand; settings in which it differs from the training are
    named in a warning.

    Args:
        name: Name of the model.
        run_dir: Folder of the training.
        base: timm name of the weights from which the backbone started.
        overwrite: Replace a file that exists.

    Raises:
        ValueError: If a model that the training started from, or a teacher, is outside the folder that holds the folder
            of the run, so that no relative path can name it.
    """
    path, config = _index.recipe_path(name), TrainConfig.from_file(run_dir / 'config.json')
    settings = _settings_to_publish(config, run_dir)
    if path.exists() and not overwrite:
        changed = _differences(TrainConfig.from_file(path), TrainConfig.from_dict(settings))
        if changed:
            logger.warning(
                '%s is kept, but differs from the training in %s: correct it, or use --overwrite',
                path,
                ', '.join(changed),
            )
        return
    data = Path(config.data)
    options = '' if config.init else f' --backbone-checkpoint {base}.safetensors'
    if config.annotations:
        annotations = Path(config.annotations)
        inside = annotations.relative_to(data) if annotations.is_relative_to(data) else Path(annotations.name)
        options += f' --annotations {shlex.quote(f"{data.name}/{inside.as_posix()}")}'
    command = f'fcam-zoo train {data.name}/ -o runs/{run_dir.resolve().name} --recipe {name}{options}'
    others = '# Paths of runs/ are other trainings, which must be finished first.\n' if 'runs/' in str(settings) else ''
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=120)
    write_text(path, f'# The last training of {name}.\n#   {command}\n{others}{text}')


def _settings_to_publish(config: TrainConfig, run_dir: Path) -> dict[str, Any]:
    """Return the settings that repeat a training; paths of other trainings start with the folder of the runs."""
    settings = {name: value for name, value in config.to_dict().items() if name not in MACHINE_SETTINGS}
    settings['teacher'].pop('cache')
    if config.init:
        # The network is that of init.
        settings = {name: value for name, value in settings.items() if name not in NETWORK_SETTINGS}
        settings['init'] = _relative(config.init, run_dir, 'init')
    else:
        del settings['init']
    for part, key in (('teacher', 'model'), ('teacher', 'maps'), ('classifier', 'teacher')):
        settings[part][key] = _relative(settings[part][key], run_dir, f'{part}.{key}')
    return settings


def _relative(names: Any, run_dir: Path, place: str) -> Any:
    """Return names of models with absolute paths replaced (errors: see `write_recipe`)."""
    if names is None or isinstance(names, list):
        return names and [_relative(name, run_dir, place) for name in names]
    folder = names.removeprefix(LOCAL)
    if not Path(folder).is_absolute():
        return names
    runs = run_dir.resolve().parent
    if not Path(folder).resolve().is_relative_to(runs):
        raise ValueError(f'{place} is {folder}, which is not in {runs}: move that training there, and train again')
    return f'runs/{Path(folder).resolve().relative_to(runs).as_posix()}'


def _differences(recipe: TrainConfig, training: TrainConfig) -> list[str]:
    """Return the settings, by dotted place, in which a recipe differs from a training."""
    ignored = {*MACHINE_SETTINGS, 'teacher.cache', *(NETWORK_SETTINGS if training.init else ())}
    before, now = recipe.flat(), training.flat()
    return [place for place in now if place not in ignored and before[place] != now[place]]
