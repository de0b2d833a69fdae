"""Run an F-CAM over images of any size, with optional test-time augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ._modes import eval_mode
from .data.transforms import EvalTransform, normalize
from .models import FCAM


@dataclass(frozen=True)
class InferenceOptions:
    """Test-time augmentation: input sizes and mirroring.

    Attributes:
        sizes: Sides in pixels to which images are resized; the maps of several sizes are averaged at the largest.
        flip: Average with the map of the mirrored image.
    """

    sizes: tuple[int, ...]
    flip: bool = False

    @classmethod
    def for_model(cls, model: FCAM, sizes: Sequence[int] | None = None, flip: bool = False) -> InferenceOptions:
        """Validate the options; `sizes` None is the input size of the model.

        Raises:
            ValueError: When `sizes` is empty or holds a size below 32 pixels.
        """
        sizes = (model.pretrained_cfg['input_size'][-1],) if sizes is None else tuple(sizes)
        if not sizes or min(sizes) < 32:
            raise ValueError(f'sizes is {list(sizes)}: give one or more sizes of at least 32 pixels')
        return cls(sizes, flip)

    def prepare(self, image: Image.Image) -> tuple[torch.Tensor, ...]:
        """Resize an RGB image to each size: uint8 (3,s,s) per size."""
        return tuple(EvalTransform(size)(image) for size in self.sizes)

    @torch.inference_mode()
    def run(self, model: FCAM, batch: Sequence[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Classify and localize a batch.

        Args:
            model: Runs on its own device in eval mode; its mode is restored.
            batch: The result of `prepare` for each image.

        Returns:
            F-CAMs (B,s,s) in [0,1], where s is the largest size, and class probabilities (B,K); float32 on the CPU.
        """
        device, cfg = next(model.parameters()).device, model.pretrained_cfg
        side = max(self.sizes)
        maps, probs = [], []
        with eval_mode(model):
            for images in zip(*batch):
                x = normalize(torch.stack(images).to(device), cfg['mean'], cfg['std'])
                for mirrored in (False, True) if self.flip else (False,):
                    output = model(x.flip(-1) if mirrored else x)
                    fcam = output.maps.softmax(1)[:, 1:].float()
                    fcam = fcam.flip(-1) if mirrored else fcam
                    maps.append(F.interpolate(fcam, (side, side), mode='bilinear')[:, 0])
                    probs.append(output.logits.float().softmax(1))
        return torch.stack(maps).mean(0).cpu(), torch.stack(probs).mean(0).cpu()


@torch.inference_mode()
def class_maps(model: FCAM, images: Sequence[Image.Image], method: str = 'cam') -> np.ndarray:
    """Compute the CAMs of the predicted classes of RGB images at the input size of the model: (B,s,s) in [0,1]."""
    cfg, device = model.pretrained_cfg, next(model.parameters()).device
    prepare = EvalTransform(cfg['input_size'][-1])
    x = normalize(torch.stack([prepare(image) for image in images]).to(device), cfg['mean'], cfg['std'])
    with eval_mode(model):
        return model.cam(x, method=method).float().cpu().numpy()
