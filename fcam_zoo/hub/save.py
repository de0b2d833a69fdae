"""Model folders in timm's Hub format: config.json and model.safetensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg, is_model_pretrained

from .._download import CONFIG, WEIGHTS
from .._io import atomic_path, write_json
from .._modes import eval_mode
from .._weights import fingerprint
from ..errors import FcamZooError, WeightsError
from ..models import FCAM
from ..models.config import check_model_args

# Fields of pretrained_cfg that timm writes to config.json.
CFG_FIELDS = (
    'custom_load',
    'input_size',
    'fixed_input_size',
    'interpolation',
    'crop_pct',
    'crop_mode',
    'mean',
    'std',
    'num_classes',
    'pool_size',
    'first_conv',
    'classifier',
    'license',
)


def state_to_save(model: FCAM, half: bool = False) -> dict[str, torch.Tensor]:
    """Return the state dict on the CPU; with `half`, parameters are float16 and batch-norm statistics stay float32.

    Raises:
        WeightsError: If a value is NaN or infinite, which loading refuses.
    """
    parameters = {name for name, _ in model.named_parameters()}
    state = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        state[name] = tensor.half() if half and name in parameters else tensor
        if not state[name].isfinite().all():
            raise WeightsError(
                f'{name} holds NaN or infinite values{" in float16" if half else ""}: load an earlier epoch, or train '
                'with a lower learning rate'
            )
    return state


def save_pretrained(
    model: FCAM, directory: str | os.PathLike, *, half: bool = False, backbone_from: str | None = None, **extra: Any
) -> Path:
    """Write a model folder, which `create_model('<folder>')` and timm (`local-dir:<folder>`) can load.

    Args:
        model: The model.
        directory: Output folder.
        half: Store parameters in float16.
        backbone_from: timm name, with tag, of the unchanged weights of the classifier. Only the decoder is stored then,
            and loading downloads the classifier from timm.
        **extra: Additional top-level fields of config.json (dataset, teacher, metrics, recipe).

    Returns:
        The folder.

    Raises:
        TypeError: If the model is not an FCAM.
        WeightsError: If the timm name of a wrapped classifier does not rebuild it, for example because its strides or
            pooling were changed; if an argument of the model or a weight is one that loading refuses; or if timm's
            weights `backbone_from` do not fit the classifier.
    """
    if not isinstance(model, FCAM):
        raise TypeError(
            f'{type(model).__name__} is not an FCAM: create one with fcam_zoo.wrap(classifier), without DDP or compile'
        )
    directory = Path(directory)
    try:
        check_model_args(model.model_args)
    except ValueError as e:
        raise WeightsError(f'the model cannot be saved, because loading would refuse it: {e}') from e
    if model.wrapped:
        _check_rebuilt(model)
    cfg = model.pretrained_cfg
    config: dict[str, Any] = {
        'architecture': cfg.get('architecture') or 'fcam',
        'num_classes': model.num_classes,
        'num_features': model.num_features,
        'model_args': model.model_args,
        'library_name': 'fcam_zoo',
        **extra,
        'pretrained_cfg': {k: cfg[k] for k in CFG_FIELDS if cfg.get(k) is not None} | {'custom_load': False},
    }
    if len(cfg.get('label_names') or ()) == model.num_classes:
        config['label_names'] = list(cfg['label_names'])
    state = state_to_save(model, half)
    if backbone_from is not None:
        _check_source(model, backbone_from)
        config['holds'] = 'decoder'
        config['model_args']['backbone'] = backbone_from
        state = {k: v for k, v in state.items() if k.startswith('decoder.')}
    with atomic_path(directory / WEIGHTS) as temporary:
        save_file(state, temporary, metadata={'format': 'pt'})
    config['weights'] = fingerprint(directory / WEIGHTS)
    write_json(directory / CONFIG, config)
    return directory


def _check_source(model: FCAM, backbone_from: str) -> None:
    """Check that timm has weights of this name with the right shape; their values are not compared."""
    cfg = get_pretrained_cfg(backbone_from) if is_model_pretrained(backbone_from) else None
    backbone: Any = model.backbone
    own = backbone.pretrained_cfg['architecture']
    if model.method.state_dict():
        raise WeightsError(
            f'backbone_from={backbone_from!r}: the classifier has modules of {model.method.title}, which timm does not '
            'have: omit backbone_from to store the classifier too'
        )
    if not cfg or cfg.architecture != own or cfg.num_classes != model.num_classes:
        raise WeightsError(
            f'backbone_from={backbone_from!r}: timm has no weights of this name for {own} with {model.num_classes} '
            'classes, so the classifier could not be loaded again: omit backbone_from to store the classifier too'
        )


@torch.no_grad()
def _check_rebuilt(model: FCAM) -> None:
    """Check that config.json rebuilds the network of a wrapped classifier."""
    fault = (
        f'the wrapped {type(model.backbone).__name__} was built with arguments that its name '
        f'{model.model_args["backbone"]!r} does not include, so it could not be loaded again: build the model with '
        "create_model('fcam', backbone=…, output_stride=…, backbone_kwargs=…) and load the weights into it"
    )
    try:
        again = FCAM(**model.model_args, num_classes=model.num_classes)
        again.load_state_dict(model.state_dict())
    except (RuntimeError, FcamZooError) as e:
        raise WeightsError(f'{fault} ({str(e).splitlines()[0]})') from e
    generator = torch.Generator().manual_seed(0)
    with eval_mode(model), eval_mode(again):
        for side in (128, 160):
            x = torch.rand(1, model.in_chans, side, side, generator=generator)
            parameter = next(model.parameters())
            again.to(parameter)
            got, want = again(x.to(parameter)), model(x.to(parameter))
            if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(got, want)):
                raise WeightsError(fault)
