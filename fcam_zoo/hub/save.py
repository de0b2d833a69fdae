"""Models as folders in timm's Hub format: config.json and model.safetensors."""

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

# Fields of pretrained_cfg that config.json carries, as timm writes them.
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
    """State dict on the CPU, contiguous; with `half`, parameters in float16 (batch-norm statistics stay float32)."""
    parameters = {name for name, _ in model.named_parameters()}
    state = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        state[name] = tensor.half() if half and name in parameters else tensor
    return state


def save_pretrained(
    model: FCAM, directory: str | os.PathLike, *, half: bool = False, backbone_from: str | None = None, **extra: Any
) -> Path:
    """Write a model folder that `create_model('local-dir:<folder>')` and timm load.

    Args:
        model: The model.
        directory: Output folder.
        half: Store parameters in float16.
        backbone_from: Name, with its tag, of the timm weights that the classifier has unchanged: the decoder alone is
            stored then, and loading fetches the classifier from timm.
        **extra: Further top-level fields of config.json (data set, teacher, metrics, recipe).

    Returns:
        The folder.

    Raises:
        TypeError: When the model is no F-CAM.
        WeightsError: For a wrapped classifier that its timm name does not build again, such as one whose strides or
            pooling were chosen when it was made; for backbone_from that cannot be its classifier.
    """
    if not isinstance(model, FCAM):
        raise TypeError(
            f'{type(model).__name__} is no F-CAM: fcam_zoo.wrap(classifier) makes one, without DDP or compile'
        )
    directory = Path(directory)
    if model.wrapped:
        _check_rebuilt(model)
    cfg = model.pretrained_cfg
    config: dict[str, Any] = {
        'architecture': cfg.get('architecture') or 'fcam',
        'num_classes': model.num_classes,
        'num_features': model.num_features,
        'model_args': {**model.model_args, 'threshold': model.threshold},
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
    """timm's weights of this name must fit the classifier; that they are what it holds is for the caller to know."""
    cfg = get_pretrained_cfg(backbone_from) if is_model_pretrained(backbone_from) else None
    own = model.backbone.pretrained_cfg['architecture']
    if not cfg or cfg.architecture != own or cfg.num_classes != model.num_classes:
        raise WeightsError(
            f'backbone_from={backbone_from!r}: timm has no weights of this name for {own} with {model.num_classes} '
            'classes, so loading could not fetch the classifier: leave it out to store the classifier too'
        )


@torch.no_grad()
def _check_rebuilt(model: FCAM) -> None:
    """What config.json says of a wrapped classifier must build the same network."""
    fault = (
        f'the wrapped {type(model.backbone).__name__} was built with arguments that its name '
        f'{model.model_args["backbone"]!r} does not tell, so that it could not be loaded again: build it with '
        "create_model('fcam', backbone=…, output_stride=…, backbone_kwargs=…) and load its weights into that"
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
