"""Facts about a model, for its config.json, model card and index entry: data, teacher, metrics, selection, recipe."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import timm

from .._download import CONFIG
from .._index import Metrics, recipe_of
from .._schema import build, convert, read_json, reading
from ..errors import TrainingError
from ..models.names import released
from ..models.zoo import is_folder_name
from ..wsol import METHODS

FACTS = ('backbone', 'dataset', 'teacher', 'metrics', 'epochs', 'selection', 'recipe', 'license')
# Settings that depend on the machine of the training.
PRIVATE_SETTINGS = (
    'data',
    'annotations',
    'init',
    'backbone_checkpoint',
    'workers',
    'device',
    'checkpoint_minutes',
    'keep_epochs',
)
# Settings of the network, which a training with init takes from it.
NETWORK_SETTINGS = ('backbone', 'output_stride', 'dilated', 'decoder_type', 'decoder_channels', 'backbone_kwargs')

OTHER_MAPS = 'maps of another tool'
BEST_CONFIG = f'best/{CONFIG}'
_FINISHED = 'give the folder of a finished fcam-zoo train'


@dataclass
class RunFacts:
    """What a training records about itself in the config.json of its models (see `train.provenance`).

    Attributes:
        dataset: Its title, and the number of training images of the last stage.
        metrics: Metrics of the model by split and kind of map; the split is train if there is no val.
        epochs: Best and last epoch of each stage.
        selection: How the epoch was selected.
        trained: Version of fcam_zoo, and date.
        teacher: Method of the teacher; None without a decoder stage.
    """

    dataset: dict[str, str | int]
    metrics: dict[str, Metrics]
    epochs: dict[str, dict[str, int]]
    selection: str
    trained: dict[str, str]
    teacher: str | None = None


def check_facts(facts: dict[str, Any]) -> None:
    """Check facts before they are written to a model card.

    Raises:
        ValueError: If a fact is unknown or invalid; the message names it.
    """
    unknown = sorted(facts.keys() - set(FACTS))
    if unknown:
        raise ValueError(f'unknown facts {", ".join(unknown)}: give {", ".join(FACTS)}')
    dataset = facts.get('dataset') or {'title': ''}
    if not isinstance(dataset, dict) or not isinstance(dataset.get('title'), str):
        raise ValueError(f'dataset is {dataset!r}: give a dict of title, license and note')
    try:
        splits = (facts.get('metrics') or {}).values()
        valid = all(math.isfinite(v) for kinds in splits for metrics in kinds.values() for v in metrics.values())
    except (AttributeError, TypeError, OverflowError):
        valid = False
    if not valid:
        raise ValueError(
            "metrics must be numbers by split, kind of map and key: {'test': {'fcam': {'max_box_acc_50': 81.5}}}"
        )


def facts_of_release(name: str) -> dict[str, Any]:
    """Return the facts of a released model, from the index.

    Raises:
        UnknownModelError: If the model is not released.
    """
    entry = released(name)
    recipe = recipe_of(entry)
    if recipe.get('init'):
        recipe = recipe | network_settings({**entry.model_args, 'backbone': entry.backbone})
    values = entry.to_dict() | {'recipe': public_recipe(recipe)}
    return {key: values[key] for key in FACTS if key in values}


def facts_of_run(
    run_dir: str | os.PathLike,
    data_title: str | None = None,
    data_license: str = 'unknown',
    license: str | None = None,
) -> dict[str, Any]:
    """Return the facts of a finished training: those that it recorded in its models, and its settings.

    Args:
        run_dir: Folder of the training.
        data_title: Title of the data set; default: the name of its folder.
        data_license: License of its images.
        license: License of the weights, as an identifier of the Hub; default: that of the backbone.

    Returns:
        Facts of the best model; the metrics of the last epoch are those of the split `<split>_last_epoch`. Without a
        decoder stage there is no teacher.

    Raises:
        TrainingError: If the folder does not contain a finished training.
    """
    run_dir = Path(run_dir)
    with reading(run_dir, TrainingError, _FINISHED):
        recipe = _read(run_dir / 'config.json')
        best, last = (_recorded(run_dir, which) for which in ('best', 'last'))
        arguments = convert(
            dict[str, Any], _read(run_dir / BEST_CONFIG).get('model_args'), f'{BEST_CONFIG}: model_args'
        )
        backbone = convert(str, arguments.get('backbone'), f'{BEST_CONFIG}: model_args.backbone')
        title = data_title or convert(str, best.dataset.get('title'), f'{BEST_CONFIG}: dataset.title')
    facts = {
        'backbone': _tagged(backbone) if recipe.get('backbone_pretrained') else backbone,
        'dataset': {'title': title, 'license': data_license, 'note': ''},
        'metrics': best.metrics | {f'{split}_last_epoch': kinds for split, kinds in last.metrics.items()},
        'epochs': best.epochs,
        'selection': best.selection,
        'recipe': public_recipe(recipe | network_settings(arguments) if recipe.get('init') else recipe),
        'license': license,
    }
    return facts | ({'teacher': best.teacher} if best.teacher else {})


def _recorded(run_dir: Path, which: str) -> RunFacts:
    """Read the facts in the config.json of the model 'best' or 'last'."""
    path = run_dir / which / CONFIG
    config, names = _read(path), [field.name for field in fields(RunFacts)]
    if 'trained' not in config:
        raise TrainingError(
            f'{path} lacks the facts of the training, as in earlier versions of fcam_zoo: repeat its command with '
            '--resume, which writes the models of a finished training again; if it is refused, train again'
        )
    return build(RunFacts, {name: config[name] for name in names if name in config}, f'{which}/{CONFIG}')


def has_decoder_stage(folder: Path) -> bool:
    """Return False if a model folder records a training without a decoder stage."""
    epochs = _read(folder / CONFIG).get('epochs')
    return not isinstance(epochs, dict) or 'decoder' in epochs


def teacher_of(recipe: dict[str, Any], trained_by: Any = None) -> str:
    """Return the method of the teacher of a recipe; of several, the first CAM method.

    Args:
        recipe: Settings of the training.
        trained_by: Training method of the model (`FCAMConfig.method`), whose own map may be the default teacher.
    """
    teacher = recipe['teacher']
    if isinstance(teacher, dict):
        if supervised := supervision_text(recipe):
            return supervised
        if teacher.get('maps'):
            return OTHER_MAPS
        method = teacher.get('method', '')
        if isinstance(method, list):
            method = next((name for name in method if name != 'fcam'), 'fcam')
        if method is None:
            name = trained_by.get('name') if isinstance(trained_by, dict) else trained_by
            return 'cam' if name in METHODS and METHODS[name].own_map else 'layercam'
        return convert(str, method, 'config.json: teacher.method')
    return convert(str, teacher, 'config.json: teacher')


def teacher_text(method: str, recipe: dict[str, Any] | None) -> str:
    """Describe a teacher: 'layercam', or 'layercam of local-dir:birds/best, layers blocks.5, blocks.6, flipped'."""
    teacher = (recipe or {}).get('teacher')
    if not isinstance(teacher, dict):
        return method
    if supervised := supervision_text(recipe):
        return supervised
    if teacher.get('maps'):
        return OTHER_MAPS
    model, layers, sizes = (teacher.get(key) or [] for key in ('model', 'layers', 'sizes'))
    methods = teacher.get('method') or method
    special = {None: 'its own classifier', 'init': 'the model it started from'}
    models = [special.get(name, name) for name in ([model] if isinstance(model, str) else model)]
    if isinstance(methods, list):
        parts = [' and '.join(f'{one or method} of {name}' for one, name in zip(methods, models))]
    else:
        parts = [f'{methods} of {", ".join(models)}' if models else methods]
    if len(models) > 1:
        parts.append(f'consensus by their {str(teacher.get("consensus") or "mean").replace("_", " ")}')
    if layers:
        parts.append(f'layers {", ".join(map(str, layers))} ({teacher.get("fusion")})')
    if sizes:
        parts.append(f'sides of {", ".join(map(str, sizes))} pixels')
    return ', '.join([*parts, 'flipped'] if teacher.get('flip') else parts)


def supervision_text(recipe: dict[str, Any] | None) -> str:
    """Describe the annotations that trained the decoder: 'boxes or masks of 5 images per class'; '' without any."""
    teacher = (recipe or {}).get('teacher')
    count = teacher.get('supervision') if isinstance(teacher, dict) else None
    return f'boxes or masks of {count} images per class' if count else ''


def network_settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the network of a training that started from a model."""
    return {name: arguments[name] for name in NETWORK_SETTINGS if name in arguments}


def public_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without those of the machine; paths of local teachers are shortened."""
    public = {key: value for key, value in recipe.items() if key not in PRIVATE_SETTINGS}
    if isinstance(teacher := recipe.get('teacher'), dict):
        own = {key: value for key, value in teacher.items() if key != 'cache'}
        maps = Path(str(teacher['maps'])).name if teacher.get('maps') else None
        public['teacher'] = own | {'model': _public_names(_with_start(teacher.get('model'), recipe)), 'maps': maps}
    if isinstance(classifier := recipe.get('classifier'), dict) and classifier.get('teacher'):
        public['classifier'] = classifier | {'teacher': _public_names(classifier['teacher'])}
    return public


def _with_start(models: Any, recipe: dict[str, Any]) -> Any:
    """Return the models of a teacher, with the name of the one that the training started from instead of 'init'."""
    start = recipe.get('init')
    start = start[0] if isinstance(start, list) and len(start) == 1 else start
    if not isinstance(start, str):
        return models
    return [start if name == 'init' else name for name in ([models] if isinstance(models, str) else models or [])]


def _public_names(names: Any) -> str | list[str | None] | None:
    found = [name and _shortened(str(name)) for name in ([names] if isinstance(names, str) else names or [])]
    return found[0] if len(found) == 1 else found or None


def _shortened(name: str) -> str:
    """Return the name of a local model with its last folder only; before `best` or `last`, that of its run."""
    folder = name.removeprefix('local-dir:')
    if folder == name and not is_folder_name(name):
        return name
    path = Path(folder)
    return f'local-dir:{"/".join(path.parts[-2:] if path.name in ("best", "last") else path.parts[-1:])}'


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise TrainingError(f'{path} does not exist: {_FINISHED}')
    with reading(path, TrainingError, _FINISHED):
        return convert(dict[str, Any], read_json(path), 'the content')


def _tagged(backbone: str) -> str:
    """Add the default tag to a timm name without one."""
    cfg = timm.get_pretrained_cfg(backbone)
    return f'{cfg.architecture}.{cfg.tag}' if cfg and cfg.tag else backbone
