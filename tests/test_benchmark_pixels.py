"""PxAP, compared with NumPy's histogram and a plain sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fcam_zoo.benchmark import PixelAP

EDGES = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])


def batch(n: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    maps = rng.random((n, 30, 20))
    maps[0, :, :5] = rng.choice(EDGES[EDGES <= 1], (30, 5))  # scores on the edges of bins
    maps[1] = np.nextafter(maps[1].round(3), 0).clip(0, 1)  # and next to them
    maps[2, :3], maps[2, 3:6] = 0, 1
    return maps, rng.choice([0, 1, 255], (n, 30, 20), p=[0.6, 0.3, 0.1]).astype(np.uint8)


def plain(maps: np.ndarray, masks: np.ndarray, edges: np.ndarray = EDGES) -> tuple[np.ndarray, np.ndarray, float]:
    true, false = (np.histogram(maps[masks == k], edges)[0] for k in (1, 0))
    pxap = hits = seen = 0
    for k, (t, f) in enumerate(zip(true[::-1], false[::-1])):
        hits, seen = hits + t, seen + t + f
        if k and seen:
            pxap += 100 * (hits / seen) * (t / true.sum())
    return true, false, pxap


@pytest.mark.parametrize('dtype', ['float64', 'float32', 'float16'])
def test_equals_the_plain_computation(dtype: str) -> None:
    maps, masks = batch()
    maps = maps.astype(dtype)
    result = PixelAP().update(maps, masks).compute()
    true, false, pxap = plain(maps.astype(float), masks)
    assert np.array_equal(result['hist_true'], true)
    assert np.array_equal(result['hist_false'], false)
    assert result['pxap'] == pytest.approx(pxap, abs=1e-9)
    assert result['n'] == 5
    assert result['recall'][-1] == 1
    assert np.isnan(result['precision'][0])  # no score is above 2
    tensors = PixelAP().update(torch.from_numpy(maps), torch.from_numpy(masks)).compute()
    assert tensors['pxap'] == result['pxap']


@pytest.mark.parametrize('thresholds', [[0.0], [0.0, 0.3, 0.300001, 0.31, 0.9999, 1.0], np.linspace(0, 0.02, 50)])
def test_other_thresholds(thresholds: list[float]) -> None:
    maps, masks = batch()
    true, false, pxap = plain(maps, masks, np.unique([*thresholds, 1, 2, 3]))
    result = PixelAP(thresholds).update(maps, masks).compute()
    assert np.array_equal(result['hist_true'], true)
    assert np.array_equal(result['hist_false'], false)
    assert result['pxap'] == pytest.approx(pxap, abs=1e-9)


def test_batches_merging_and_states_equal_one_pass() -> None:
    maps, masks = batch()
    whole = PixelAP().update(maps, masks)
    each = PixelAP()
    for i in range(len(maps)):
        each.update(maps[i : i + 1], masks[i : i + 1])
    parts = [PixelAP().update(maps[s], masks[s]) for s in (slice(0, 2), slice(2, None))]
    summed = PixelAP()
    summed.load_state_dict({k: sum(p.state_dict()[k] for p in parts) for k in parts[0].state_dict()})
    known = PixelAP().count(PixelAP().histograms(maps, masks))
    for metric in (each, PixelAP().merge(parts[0]).merge(parts[1]), summed, known):
        assert all(np.array_equal(metric.compute()[k], v, equal_nan=True) for k, v in whole.compute().items())


def test_invalid_arguments_raise() -> None:
    maps, masks = batch()
    metric = PixelAP()
    for arguments, message in (
        ((maps + 1, masks), r'score map 0 of the batch'),
        ((maps * np.nan, masks), 'NaN'),
        ((maps, masks[:, :-1]), 'the same shape'),
        ((maps, masks // 2), 'mask 0 of the batch may only hold'),
        ((maps, masks + 0.5), 'mask 0 of the batch may only hold'),
        ((maps, masks.astype(int) + 256), 'mask 0 of the batch may only hold'),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(*arguments)
    with pytest.raises(ValueError, match='no image has been counted'):
        metric.compute()
    with pytest.raises(ValueError, match='no mask has object pixels'):
        metric.update(maps, masks * 0).compute()
    with pytest.raises(ValueError, match='merged if thresholds are the same'):
        metric.merge(PixelAP([0.0, 0.5]))
    with pytest.raises(ValueError, match='other options'):
        metric.load_state_dict(PixelAP([0.0]).state_dict())
    with pytest.raises(ValueError, match=r'histograms must have the shape \(N,2,1002\)'):
        metric.count(np.zeros((2, 2, 7)))
    for thresholds, message in (([0.1, 0.2], 'start at 0'), ([0.0, 0.2, 0.1], 'ascend')):
        with pytest.raises(ValueError, match=message):
            PixelAP(thresholds)
