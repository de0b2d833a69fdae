"""Select the values in tests/golden from the full golden values (not part of the repository).

    python tests/golden/make.py FULL_VALUES

README.md describes each array that this script writes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
HERE = Path(__file__).parent
# Name in the full values: method and variant of fcam_zoo that give the same map.
CAM_NAMES = {
    'CAM': 'cam.published',
    'GradCAM': 'gradcam.published',
    'GradCAMpp': 'gradcampp.reference',
    'ownGradCAMppDivided': 'gradcampp.published',
    'SmoothGradCAMpp': 'smoothgradcampp.reference',
    'XGradCAM': 'xgradcam.published',
    'LayerCAM': 'layercam.published',
}
CAM_LABELS = (1, 4)
GREY_MAPS = (0, 10, 15, 19, 24, 31, 36, 42, 46)
FLOAT_MAPS = (10, 15)
BOX_MAPS = (30, 45, 75, 82, 85, 90, 92, 94, 98)
PIXEL_MAPS = (10, 15, 34, 40)
CRF_IMAGES = (2, 3)
DECODERS = ('resnet', 'vgg', 'odd')


def load(folder: Path, name: str) -> Arrays:
    with np.load(folder / f'{name}.npz', allow_pickle=False) as arrays:
        return dict(arrays)


def cams(folder: Path) -> Arrays:
    values = load(folder, 'cams')
    kept = {k: v for k, v in values.items() if k in ('x', 'smooth_noise') or '_w_' in k or k.endswith('_logits')}
    kept['labels'] = np.array(CAM_LABELS)
    for net in 'AB':
        for name, method in CAM_NAMES.items():
            for kind in ('raw', 'full') if name == 'LayerCAM' else ('raw',):
                if f'{net}_{name}_{kind}_0_0' in values:
                    maps = [[values[f'{net}_{name}_{kind}_{i}_{label}'] for label in CAM_LABELS] for i in range(3)]
                    kept[f'{net}.{method}.{kind}'] = np.array(maps)
    return kept


def sampling(folder: Path) -> Arrays:
    values = load(folder, 'seeds')
    grey, maps = list(GREY_MAPS), list(FLOAT_MAPS)
    labels = values['sampled'].reshape(-1, 224, 224)
    # Only draws whose two squares lie inside the image and do not overlap, so that their centres are known.
    drawn = [s for s in labels if all((s == k).sum() == 9 for k in (0, 1))][:12]
    centres = [[[int(axis.mean()) for axis in np.nonzero(s == k)] for k in (0, 1)] for s in drawn]
    return {
        'grey': values['cam_uint8'][grey],
        'otsu': values['otsu'][grey],
        'foreground_settings': values['fg_configs'],
        'foreground_bits': values['fg_bits'][:, grey],
        'foreground_exists': values['fg_count'][0, grey] >= 0,
        'maps': values['cams'][maps],
        'fractions': values['min_p'],
        'background_bits': values['bg_bits'][:, maps],
        'seed_centres': np.array(centres),
        'seed_bits': np.packbits(
            np.stack([[s == k for k in (0, 1)] for s in drawn]).reshape(len(drawn), 2, -1), axis=2
        ),
    }


def losses(folder: Path) -> Arrays:
    values, crf = load(folder, 'losses'), load(folder, 'crf')
    kept = {k: values[k] for k in ('t_schedule', 'logits', 'seeds', 'pce_loss', 'pce_grad')}
    kept['t'] = values['elb_t']
    for case in range(8):
        kept[f'barrier_{case}.f'] = values[f'elb_fx_{case}']
        for what in ('loss', 'grad'):
            kept[f'barrier_{case}.{what}'] = np.array([values[f'elb_{what}_t{k}_{case}'] for k in range(5)])
    kept['size_loss'] = np.array([values[f'size_loss_t{k}'] for k in range(5)]) / values['size_lambda']
    kept['size_grad_t2'] = (values['size_grad_t2'] / values['size_lambda']).astype(np.float32)
    images = list(CRF_IMAGES)
    kept |= {
        'crf.images': crf['images'][images].astype(np.uint8),
        'crf.probs': crf['seg'][images],
        'crf.sigmas': crf['configs'],
        'crf.loss': np.array([crf[f'dense_loss_per_image_{k}'][images] for k in range(4)]),
        'crf3.images': crf['images3'].astype(np.uint8),
        'crf3.probs': crf['seg3'],
        'crf3.loss': crf['dense3_loss'],
        'crf3.grad': crf['dense3_grad'].astype(np.float32),
    }
    return kept


def boxes(folder: Path) -> Arrays:
    values = load(folder, 'metrics_box')
    rows = list(BOX_MAPS)
    target, order = values['target'][rows], values['preds_ordered'][rows]
    kept = {
        'maps': values['maps'][rows],
        'boxes': values['gt_boxes_224'][rows],
        'n_boxes': values['n_boxes'][rows],
        'labels': target,
        'logits': values['logits'][rows],
        'thresholds': values['thresholds'],
        'box_thresholds': values['box_thresholds'],
        'single_boxes': values['single_boxes'][rows],
    }
    for kind in ('single', 'multi'):
        # The full values hold counts over all images, and the best IoU per image: count over the selection.
        found = values[f'{kind}_best_iou'][rows][None] >= values['iou_thresholds'][:, None, None] / 100
        for suffix, k in (('', None), ('_top1', 1), ('_top5', 5)):
            right = np.ones(len(rows), bool) if k is None else (order[:, :k] == target[:, None]).any(1)
            kept[f'{kind}_num_correct{suffix}'] = (found & right[:, None]).sum(1)
    return kept


def pixels(folder: Path) -> Arrays:
    values = load(folder, 'metrics_pxap')
    rows = list(PIXEL_MAPS)
    return {
        'maps': values['maps'][rows],
        'masks': values['gt_mask'][rows],
        'thresholds': values['thresholds'],
        'pxap': values['pxap_per_image'][rows],
    }


def decoder(folder: Path) -> Arrays:
    kept = {}
    for key, value in load(folder, 'decoder').items():
        name, kind = key.split('_')[:2]
        if name in DECODERS and kind in ('dec', 'head'):
            kept[key] = value
        elif name in DECODERS and (kind == 'feat' or key.endswith('eval_logits')):
            kept[key] = value[:1]
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('full', type=Path, help='folder with cams.npz, crf.npz, decoder.npz, losses.npz, ...')
    folder = parser.parse_args().full
    for select in (cams, sampling, losses, boxes, pixels, decoder):
        path = HERE / f'{select.__name__}.npz'
        np.savez_compressed(path, **select(folder))
        print(f'{path.name}: {path.stat().st_size / 1024:.0f} KiB')


if __name__ == '__main__':
    main()
