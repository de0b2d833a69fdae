"""The exact CRF kernel in one fused pass on a GPU: kernel entries are never written to memory."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

# Pixels that a program computes, and pixels that it reads per step.
ROWS, COLUMNS = 64, 64


def filter_fused(features: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Compute W S of a batch: features (B,N,5), probs (B,K,N) -> (B,K,N), all float32."""
    batch, classes, n = probs.shape
    features = features.transpose(1, 2).contiguous()
    # A program computes two classes at once; an odd number is padded.
    probs = torch.nn.functional.pad(probs, (0, 0, 0, classes % 2)).contiguous()
    out = torch.empty_like(probs)
    grid = (triton.cdiv(n, ROWS), batch, probs.shape[1] // 2)
    _filter_pair[grid](features, probs, out, n, ROWS, COLUMNS)
    return out[:, :classes]


@triton.jit
def _filter_pair(features: Any, probs: Any, out: Any, n: Any, rows: tl.constexpr, columns: tl.constexpr) -> None:
    i = tl.program_id(0) * rows + tl.arange(0, rows)
    image = tl.program_id(1).to(tl.int64)
    features += image * 5 * n
    pair = (image * tl.num_programs(2) + tl.program_id(2)) * 2 * n
    inside = i < n
    y = tl.load(features + i, inside, 0.0)
    x = tl.load(features + n + i, inside, 0.0)
    r = tl.load(features + 2 * n + i, inside, 0.0)
    g = tl.load(features + 3 * n + i, inside, 0.0)
    b = tl.load(features + 4 * n + i, inside, 0.0)
    first = tl.zeros([rows], tl.float32)
    second = tl.zeros([rows], tl.float32)
    for start in range(0, n, columns):
        j = start + tl.arange(0, columns)
        there = j < n
        dy = y[:, None] - tl.load(features + j, there, 0.0)[None, :]
        dx = x[:, None] - tl.load(features + n + j, there, 0.0)[None, :]
        dr = r[:, None] - tl.load(features + 2 * n + j, there, 0.0)[None, :]
        dg = g[:, None] - tl.load(features + 3 * n + j, there, 0.0)[None, :]
        db = b[:, None] - tl.load(features + 4 * n + j, there, 0.0)[None, :]
        weight = tl.exp(-0.5 * (dy * dy + dx * dx + dr * dr + dg * dg + db * db))
        # After the last pixel the probabilities are 0.
        first += tl.sum(weight * tl.load(probs + pair + j, there, 0.0)[None, :], 1)
        second += tl.sum(weight * tl.load(probs + pair + n + j, there, 0.0)[None, :], 1)
    tl.store(out + pair + i, first, inside)
    tl.store(out + pair + n + i, second, inside)
