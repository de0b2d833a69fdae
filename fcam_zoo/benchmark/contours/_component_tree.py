"""Components of `gray > level` at every level of an image at once: their boxes, and the areas of their outlines.

Steepest ascent takes each pixel to a local maximum; the pixels of one maximum form its basin. The ascent never leaves
`gray > level`, so the components at a level are unions of basins that touch above it: a graph of a few basins instead
of an image. As the level falls, basins join at their saddles, and their extents and areas are merged.

Gray values are 1..256 (8 bits plus one) and levels 0..255: no pixel is excluded at level 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

LEVELS = 256
_SQUARE = cv2.getStructuringElement(cv2.MORPH_RECT, (3, 3))
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


class Tree(NamedTuple):
    """Branch i is a component at the levels saddle[i] <= level < peak[i], and part of another one at lower levels."""

    labels: np.ndarray  # (H,W) int32, basin of each pixel
    peak: np.ndarray  # (K)
    saddle: np.ndarray  # (K) 0 for what remains at the lowest level
    joins: list[tuple[int, int, int]]  # branch, the one that it joins, saddle; by falling saddle

    def alive(self, levels: np.ndarray) -> np.ndarray:
        """Return whether each branch is a component at each of the levels (n): bool (K,n)."""
        return (self.saddle[:, None] <= levels) & (levels < self.peak[:, None])


def ranks(scores: np.ndarray) -> np.ndarray:
    """Return distinct float64 integers in the order of the scores (H,W) in 0..255; equal scores by position.

    Their last bits are the position. Scores are resolved to 2**-29 in a map of 224 x 224, integer scores always.
    """
    bits = _position_bits(scores.size)
    values = scores * 2.0 ** (45 - bits)
    np.floor(values, out=values)
    values *= 2.0**bits
    values += np.arange(scores.size, dtype=np.float64).reshape(scores.shape)
    return values


def _position_bits(size: int) -> int:
    return (size - 1).bit_length()


def ascend(order: np.ndarray, corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Find the position (H*W) of the highest neighbor of each pixel, and of local maxima, which point to themselves.

    Args:
        order: (H,W) from `ranks`, or its negative to descend.
        corners: 8 neighbors instead of 4.
    """
    top = cv2.dilate(order, _SQUARE if corners else _CROSS)
    up = np.abs(top, out=top).astype(np.intp).ravel()
    up &= (1 << _position_bits(order.size)) - 1
    return up, np.flatnonzero(up == np.arange(up.size))


def grow(gray: np.ndarray, up: np.ndarray, tops: np.ndarray, corners: bool, outside: bool = False) -> Tree:
    """Build the tree of the components from the results of `ascend`.

    Args:
        gray: (H,W) int16 in 1..256.
        up: Position of the highest neighbor of each pixel.
        tops: Positions of the local maxima.
        corners: 8 neighbors instead of 4.
        outside: Add a last branch for the surroundings of the image, joined to all pixels at its border.
    """
    peak = gray.ravel()[tops].astype(np.int64)
    if len(tops) == 1 and not outside:
        return Tree(np.zeros(gray.shape, np.int32), peak, np.zeros(1, np.int64), [])
    while not np.array_equal(further := up.take(up), up):
        up = further
    basin = np.empty(up.size, np.int32)
    basin[tops] = np.arange(tops.size)
    labels = basin.take(up).reshape(gray.shape)
    edges = list(_contacts(labels, gray, corners))
    if outside:
        for border in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
            edges.append((labels[border], np.full(labels[border].size, len(peak)), gray[border]))
        peak = np.append(peak, LEVELS + 1)
    joins = _join(edges, peak.tolist())
    saddle = np.zeros(len(peak), np.int64)
    for branch, _, level in joins:
        saddle[branch] = level
    return Tree(labels, peak, saddle, joins)


def _contacts(labels: np.ndarray, gray: np.ndarray, corners: bool) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the different basins of neighboring pixels, and the level below which these pixels connect them."""
    width = labels.shape[1]
    labels, gray = labels.ravel(), gray.ravel()
    for dx, dy in ((1, 0), (0, 1), (1, 1), (-1, 1))[: 4 if corners else 2]:
        step = dy * width + dx
        here = np.flatnonzero(labels[: max(labels.size - step, 0)] != labels[step:])
        x = here % width + dx
        here = here[(x >= 0) & (x < width)]  # the others wrap into the next row
        there = here + step
        yield labels[here], labels[there], np.minimum(gray[here], gray[there])


def _join(edges: list[tuple[np.ndarray, ...]], peak: list[int]) -> list[tuple[int, int, int]]:
    """Return the joins of a maximum spanning forest; of two branches the lower one ends."""
    a, b, level = (np.concatenate(column).astype(np.int64) for column in zip(*edges))
    # One number holds pair and level, so that sorting puts the highest contact of each pair last among its own.
    codes = np.sort((np.minimum(a, b) * len(peak) + np.maximum(a, b)) * (LEVELS + 1) + level)
    pair, level = codes // (LEVELS + 1), codes % (LEVELS + 1)
    last = np.flatnonzero(np.diff(pair, append=-1))
    last = last[np.argsort(-level[last], kind='stable')]
    parent, joins = list(range(len(peak))), []
    for code, saddle in zip(pair[last].tolist(), level[last].tolist()):
        i, j = divmod(code, len(peak))
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        while parent[j] != j:
            parent[j] = j = parent[parent[j]]
        if i != j:
            if peak[i] > peak[j]:
                i, j = j, i
            parent[i] = j
            joins.append((i, j, saddle))
    return joins


def extents(tree: Tree, gray: np.ndarray) -> np.ndarray:
    """Return smallest x, smallest y, -largest x, -largest y of each branch at each level, int32 (K,4,256)."""
    height, width = gray.shape
    table: np.ndarray = np.full((len(tree.peak), 4, LEVELS), np.iinfo(np.int32).max, np.int32)
    if len(tree.peak) == 1:
        levels = np.arange(tree.peak[0])
        for i, peaks in enumerate((gray.max(0), gray.max(1))):
            first = np.maximum.accumulate(peaks).searchsorted(levels, side='right')
            last = len(peaks) - 1 - np.maximum.accumulate(peaks[::-1]).searchsorted(levels, side='right')
            table[0, i, levels], table[0, i + 2, levels] = first, -last
        return table
    rows = tree.labels * (4 * LEVELS) + (gray - 1)
    rows, columns = rows.astype(np.intp).ravel(), cv2.transpose(rows).astype(np.intp).ravel()
    x = np.repeat(np.arange(width, dtype=np.int32), height)
    y = np.repeat(np.arange(height, dtype=np.int32), width)
    # The last value of a repeated index stays, so that the order of assignment yields the extreme.
    flat = table.ravel()
    flat[columns[::-1]] = x[::-1]
    flat[LEVELS:][rows[::-1]] = y[::-1]
    flat[2 * LEVELS :][columns] = -x
    flat[3 * LEVELS :][rows] = -y
    table = np.minimum.accumulate(table[:, :, ::-1], axis=2)[:, :, ::-1]
    for branch, into, saddle in tree.joins:
        joined = table[into, :, :saddle]
        np.minimum(joined, table[branch, :, :saddle], out=joined)
    return table


def areas(tree: Tree, image: np.ndarray) -> np.ndarray:
    """Return twice the area that each branch covers within its outline at each level, int64 (K,256).

    The outline runs through the centers of the border pixels. A square between four centers is covered when all four
    pixels belong to the component, half covered when three do, and otherwise not. Holes are excluded.

    Args:
        tree: Of the image, with 8 neighbors.
        image: (H,W) uint8, the gray values minus one.
    """
    a, b, c, d = image[:-1, :-1], image[:-1, 1:], image[1:, :-1], image[1:, 1:]
    low, high = np.minimum(a, d), np.maximum(a, d)
    other_low, other_high = np.minimum(b, c), np.maximum(b, c)
    fourth = np.minimum(low, other_low)
    third = np.minimum(np.maximum(low, other_low), np.minimum(high, other_high))
    # Three pixels are at least as high as the third, so the higher one of a and d is one of them: take its basin.
    at = tree.labels[1:, 1:].copy()
    np.copyto(at, tree.labels[:-1, :-1], where=a > d)
    at *= LEVELS
    size = len(tree.peak) * LEVELS
    table = np.bincount((at + third).ravel(), minlength=size) + np.bincount((at + fourth).ravel(), minlength=size)
    table = np.cumsum(table.reshape(-1, LEVELS)[:, ::-1], axis=1)[:, ::-1]
    for branch, into, saddle in tree.joins:
        table[into, :saddle] += table[branch, :saddle]
    return table


def count_holes(tree: Tree, image: np.ndarray) -> np.ndarray:
    """Count the holes at each level, int64 (256): components minus Euler's number, pixels - edges + vertices.

    Args:
        tree: Of the image, with 8 neighbors.
        image: (H,W) uint8, the gray values minus one.
    """
    padded = np.pad(image, 1)
    across = np.maximum(padded[:, 1:], padded[:, :-1])
    down = np.maximum(padded[1:, 1:-1], padded[:-1, 1:-1])
    vertices = np.maximum(across[1:], across[:-1])
    euler = histogram(image) - histogram(across[1:-1]) - histogram(down) + histogram(vertices)
    starts = np.bincount(tree.peak - 1, minlength=LEVELS) - np.bincount(tree.saddle, minlength=LEVELS + 1)[1:]
    holes = np.zeros(LEVELS, np.int64)  # none at level 0, which holds every pixel
    holes[1:] = np.cumsum((starts - euler)[:0:-1])[::-1]
    return holes


def histogram(image: np.ndarray) -> np.ndarray:
    """Count the pixels of each value of a uint8 image, int64 (256)."""
    return cv2.calcHist([image], [0], None, [LEVELS], [0, LEVELS]).ravel().astype(np.int64)
