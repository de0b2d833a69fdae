"""Match found boxes with true boxes, and average precision, by pycocotools (extra `objects`)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import install_hint

if TYPE_CHECKING:
    from pycocotools.coco import COCO

_CATEGORY = 1


class ImageBoxes(NamedTuple):
    """True and found boxes of an image, each x, y, width, height in pixels."""

    truth: np.ndarray  # (n,4)
    found: np.ndarray  # (m,4)
    scores: np.ndarray  # (m) of the found boxes


def check_pycocotools() -> None:
    """Check that pycocotools is installed.

    Raises:
        ImportError: If not.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise ImportError(f'metrics of objects need pycocotools: {install_hint("objects")}') from error


def match(images: Sequence[ImageBoxes], iou: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Match the boxes of each image by `COCOeval`.

    Found boxes, the highest score first, take the free true box with the largest IoU, if it is at least the required
    one. A true box is taken only once: further boxes of the same object are wrong. All boxes count, of any size.

    Args:
        images: N images; those without true or found boxes are allowed.
        iou: I required IoUs in percent.

    Returns:
        Number of correct boxes per image, int64 (N,I), and AP in percent (I): the precision at the recalls 0, 0.01,
        ..., 1, interpolated and averaged. AP is NaN if no image has a true box.
    """
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):  # It prints its progress.
        truth = _as_coco([image.truth for image in images])
        found = _as_coco([image.found for image in images], [image.scores for image in images])
        evaluation = COCOeval(truth, found, 'bbox')
        evaluation.params.imgIds, evaluation.params.catIds = list(range(len(images))), [_CATEGORY]
        evaluation.params.iouThrs = np.array(iou) / 100
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ['all']
        evaluation.params.maxDets = [max((len(image.found) for image in images), default=0) or 1]
        evaluation.evaluate()
        evaluation.accumulate()
    correct = np.zeros((len(images), len(iou)), np.int64)
    for i, result in enumerate(evaluation.evalImgs):
        if result is not None:  # An image without any box.
            correct[i] = (result['dtMatches'] > 0).sum(1)
    precision = evaluation.eval['precision'][:, :, 0, 0, 0]
    return correct, np.where((precision >= 0).all(1), 100 * precision.mean(1), np.nan)


def _as_coco(boxes: Sequence[np.ndarray], scores: Sequence[np.ndarray] | None = None) -> COCO:
    """Index boxes (n,4) of each image, with their scores (n)."""
    from pycocotools.coco import COCO

    annotations: list[dict[str, Any]] = []
    for image_id, rows in enumerate(boxes):
        for k, (x, y, width, height) in enumerate(rows.tolist()):
            # Ids start at 1, because COCOeval marks a box without match by 0.
            entry: dict[str, Any] = {
                'id': len(annotations) + 1,
                'image_id': image_id,
                'category_id': _CATEGORY,
                'iscrowd': 0,
            }
            entry |= {'bbox': [x, y, width, height], 'area': width * height}
            annotations.append(entry if scores is None else entry | {'score': float(scores[image_id][k])})
    coco = COCO()
    coco.dataset = {
        'images': [{'id': i} for i in range(len(boxes))],
        'annotations': annotations,
        'categories': [{'id': _CATEGORY}],
    }
    coco.createIndex()
    return coco
