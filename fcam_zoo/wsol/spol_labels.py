"""Pseudo labels of SPOL (Wei et al., CVPR 2021), from its class maps.

They have a module of their own, since loading a model must not import OpenCV.
"""

from __future__ import annotations

import cv2
import numpy as np

# Pseudo labels: the map is cut to this band, whose regions of at least so many pixels become Gaussians, with the
# covariance of the region divided by SHARPNESS. Object is above OBJECT, background below BACKGROUND.
BAND, LEAST_AREA, SHARPNESS, OBJECT, BACKGROUND = (0.1, 0.5), 20, 10, 0.25, 0.01


def pseudo_pictures(score_map: np.ndarray, side: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Make the two pictures of the pseudo labels from a class map, before its min-max normalization.

    The first is the map divided by its maximum and resized bilinearly. In the second, each contour of the pixels in
    [0.1,0.5] of the first with an area of at least 20 pixels gives a Gaussian with peak 1. Its mean and covariance are
    those of the pixels inside, weighted by the first picture; the covariance is divided by 10. The largest Gaussian
    counts.

    Args:
        score_map: (h,w), at least 0.
        side: S, the height and width of the pictures.

    Returns:
        The map and the Gaussians, float (S,S) in [0,1].
    """
    scaled = score_map / (score_map.max() + 1e-6)
    picture = cv2.resize(scaled, (side, side), interpolation=cv2.INTER_LINEAR)
    band = ((picture >= BAND[0]) & (picture <= BAND[1])).astype(np.uint8)
    contours, _ = cv2.findContours(band, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    gaussians = np.zeros((side, side))
    for contour in contours:
        if cv2.contourArea(contour) < LEAST_AREA:
            continue
        filled = np.zeros_like(band)
        cv2.drawContours(filled, [contour], -1, 1, -1)
        gaussians = np.maximum(gaussians, _gaussian(picture * (filled & band)))
    return picture, gaussians


def _gaussian(weights: np.ndarray) -> np.ndarray:
    """Return the Gaussian (S,S), peak 1, with the mean of weights (S,S) and their covariance / SHARPNESS."""
    places = np.stack([axis.ravel() for axis in np.indices(weights.shape)], 1).astype(np.float64)
    share = weights.astype(np.float64).ravel() / weights.sum(dtype=np.float64)
    offset = places - share @ places
    covariance = (offset * share[:, None]).T @ offset / SHARPNESS
    # The pseudoinverse does not fail for pixels on a line.
    distance = ((offset @ np.linalg.pinv(covariance)) * offset).sum(1)
    return np.exp(-distance / 2).reshape(weights.shape)


def pseudo_labels(score_map: np.ndarray, side: int = 256) -> np.ndarray:
    """Label pixels by a class map: 1 is the object, 0 background, 0.5 neither.

    Object is where one of the `pseudo_pictures` exceeds 0.25; of the other pixels, background is where the first is
    below 0.01.

    Args:
        score_map: The class map of the label (h,w) by `SPOL.class_map`, at least 0.
        side: S, the height and width of the labels.

    Returns:
        float32 (S,S), which `teacher.maps` can read for a decoder with `decoder.dense` = [0.25, 0.75].
    """
    picture, gaussians = pseudo_pictures(score_map, side)
    labels = np.where(picture < BACKGROUND, 0.0, 0.5)
    labels[(picture > OBJECT) | (gaussians > OBJECT)] = 1.0
    return labels.astype(np.float32)
