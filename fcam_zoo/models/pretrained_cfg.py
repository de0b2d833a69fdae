"""The pretrained_cfg of an F-CAM: its input size and preprocessing, as timm describes them."""

from __future__ import annotations

from typing import Any

# Images are resized to the input size without cropping, as in WSOL evaluation (F-CAM, Sec. 4.1).
INPUT_CFG: dict[str, Any] = {
    'input_size': (3, 224, 224),
    'fixed_input_size': False,
    'interpolation': 'bilinear',
    'crop_pct': 1.0,
    'crop_mode': 'squash',
}


def prefixed(cfg: dict[str, Any]) -> dict[str, Any]:
    """Return the pretrained_cfg of an F-CAM from that of its backbone: same mean and std, layers under `backbone.`."""
    keys = ('mean', 'std', 'num_classes', 'pool_size', 'first_conv', 'classifier', 'license')
    kept = {k: cfg[k] for k in keys if cfg.get(k) is not None}
    for key in ('first_conv', 'classifier'):
        if isinstance(kept.get(key), str):
            kept[key] = f'backbone.{kept[key]}'
    return {**kept, **INPUT_CFG}
