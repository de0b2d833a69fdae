"""Background activation: the evidence for the label that lies outside the map."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .._checks import check_devices, check_tensor


def background_activation(logits: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
    """Compute sum_p relu(e_p) (1 - s_p) / sum_p relu(e_p), averaged over the images.

    After the background activation suppression of BAS (Wu et al., CVPR 2022), for a frozen classifier with average
    pooling and one linear layer: e_p = sum_k W[y,k] A_k(p) is what position p of the last feature map A contributes to
    the logit of the label y, and s_p is the foreground probability of the map, averaged over the cell of p. The
    classifier does not run on masked images. The term alone is smallest where everything is foreground, so it needs
    seeds of the background beside it.

    Args:
        logits: Decoder output (B,2,H,W).
        evidence: Contributions of the cells (B,h,w), the raw CAM.

    Returns:
        Scalar in [0,1]; an image without positive evidence counts 0.

    Raises:
        TypeError: If an argument is not a floating-point tensor.
        ValueError: If the shapes do not fit.
    """
    check_tensor(logits, 'logits', '(B,2,H,W)', 'float')
    check_tensor(evidence, 'evidence', '(B,h,w)', 'float')
    if logits.shape[1] != 2 or len(logits) != len(evidence) or not evidence.numel():
        raise ValueError(
            f'logits {tuple(logits.shape)} and evidence {tuple(evidence.shape)} do not fit: expected (B,2,H,W), (B,h,w)'
        )
    check_devices(logits=logits, evidence=evidence)
    foreground = logits.float().softmax(1)[:, 1]
    height, width = evidence.shape[1:]
    cells = F.adaptive_avg_pool2d(foreground, (height, width))
    positive = evidence.float().relu()
    total = positive.sum((1, 2))
    outside = (positive * (1 - cells)).sum((1, 2))
    return torch.where(total > 0, outside / torch.where(total > 0, total, 1.0), 0.0).mean()
