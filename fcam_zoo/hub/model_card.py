"""README.md of a Hub repository, made from the facts in its config.json: no figure is typed by hand."""

from __future__ import annotations

import json
import re
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData

LIMITS = """One object an image is assumed: `localize` gives the box of the largest region. The maps are class-agnostic:
they show what the decoder takes for an object of its training domain; its classes are those of its data set only.
Licenses of the training images apply to what is done with the weights."""
TITLES = {
    'pxap': 'PxAP',
    **{f'max_box_acc_{iou}': f'MaxBoxAcc (IoU {iou})' for iou in (30, 50, 70)},
    'mean': 'MaxBoxAccV2, largest region (mean of IoU 30, 50, 70)',
    **{f'top{k}_{iou}': f'Top-{k} localization (IoU {iou})' for k in (1, 5) for iou in (30, 50, 70)},
    'cls': 'Classification accuracy',
}


def model_card(config: dict[str, Any], repo_id: str) -> str:
    """The text of README.md, front matter and all.

    Args:
        config: What config.json holds, with the facts that `save_pretrained` was given.
        repo_id: `org/name`.
    """
    data = {'title': 'unknown data', 'license': 'unknown', **(config.get('dataset') or {})}
    weights, arguments = config['weights'], config['model_args']
    backbone = config.get('backbone') or arguments['backbone']
    alone = ' It holds the decoder alone; the backbone comes from timm.' if config.get('holds') == 'decoder' else ''
    recipe = json.dumps(config['recipe'], indent=1) if config.get('recipe') else None
    parts = [
        f'---\n{_front_matter(config, repo_id, data, backbone)}\n---',
        f'# {repo_id.split("/")[-1]}',
        (
            f'F-CAM (Belharbi et al., WACV 2022) on `{backbone}`, of {config["num_classes"]} classes: one forward pass '
            'classifies an image and draws the object at the resolution of the image. Trained with image labels; no '
            'box or mask was used for a gradient.'
        ),
        '## Use',
        (
            f"```python\nimport fcam_zoo\n\nmodel = fcam_zoo.create_model('hf-hub:{repo_id}')\n"
            "(found,) = fcam_zoo.localize(model, 'photograph.jpg')\n"
            'found.label, found.box, found.mask, found.map\n```\n\n'
            f"`timm.create_model('hf-hub:{repo_id}', pretrained=True)` works after `import fcam_zoo`. "
            f'Append `@<commit>` to pin a revision.'
        ),
        '## Figures',
        _figures(config.get('metrics') or {}),
        '## Training',
        (
            f'Backbone `{backbone}`, output stride {arguments["output_stride"]}, decoder '
            f'{arguments["decoder_channels"]}, threshold {arguments["threshold"]}. Teacher: '
            f'{config.get("teacher") or "not recorded"}. Selection: {config.get("selection") or "not recorded"}'
            f'{epochs_text(config.get("epochs") or {})}.'
        ),
        f'```json\n{recipe}\n```' if recipe else 'The recipe was not recorded.',
        '## Data and licenses',
        (
            f'{data["title"]}: {data["license"]}{"; " + data["note"] if data.get("note") else ""}. '
            f'Weights: {_license(config)}; backbone: {config["pretrained_cfg"].get("license") or "unknown"}.'
        ),
        '## Limits',
        LIMITS,
        '## Files',
        f'`{weights["file"]}`: {weights["size"]:,} bytes, SHA-256 `{weights["sha256"]}`.{alone}',
    ]
    return '\n\n'.join(parts) + '\n'


def _front_matter(config: dict[str, Any], repo_id: str, data: dict[str, Any], backbone: str) -> str:
    results = [
        EvalResult(
            task_type='image-segmentation',
            task_name='Weakly-supervised object localization',
            dataset_type=_slug(data['title']),
            dataset_name=data['title'],
            dataset_split=split,
            metric_type=key,
            metric_name=TITLES[key],
            metric_value=value,
        )
        for split, kinds in (config.get('metrics') or {}).items()
        if not split.endswith('_last_epoch')
        for key, value in kinds.get('fcam', {}).items()
        if key in TITLES
    ]
    card = ModelCardData(
        license=_license(config),
        library_name='fcam_zoo',
        pipeline_tag='image-segmentation',
        tags=['timm', 'fcam', 'class-activation-map', 'weakly-supervised-object-localization'],
        datasets=[_slug(data['title'])],
        base_model=_base_model(backbone),
        metrics=list(dict.fromkeys(r.metric_type for r in results)) or None,
        model_name=repo_id.split('/')[-1],
        eval_results=results or None,
    )
    return card.to_yaml()


def _license(config: dict[str, Any]) -> str:
    """Of the weights; where none is recorded they inherit the backbone's."""
    return config.get('license') or config['pretrained_cfg'].get('license') or 'unknown'


def _base_model(backbone: str) -> str | None:
    """Repository of timm's weights of a backbone, their name where they have none; None for an architecture alone."""
    if '.' not in backbone:
        return None
    return f'timm/{backbone}' if timm.is_model_pretrained(backbone) else backbone


def _slug(title: str) -> str:
    return re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')


def epochs_text(epochs: dict[str, Any]) -> str:
    """' (stage epoch 3 of 8, …)', or nothing where none was recorded."""
    said = [f'{stage} epoch {of["best"]} of {of["last"]}' for stage, of in epochs.items()]
    return f' ({", ".join(said)})' if said else ''


def _figures(metrics: dict[str, Any]) -> str:
    keys = [k for k in TITLES if any(k in figures for kinds in metrics.values() for figures in kinds.values())]
    if not keys:
        return 'None were measured.'
    lines = [f'| split | maps | {" | ".join(TITLES[k] for k in keys)} |', '|---' * (len(keys) + 2) + '|']
    for split, kinds in metrics.items():
        for kind, figures in kinds.items():
            cells = [f'{figures[k]:.1f}' if k in figures else '-' for k in keys]
            lines.append(f'| {split.replace("_", " ")} | {kind} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n\nPercent; box figures are maxima over thresholds, each column its own.'
