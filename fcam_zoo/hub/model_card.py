"""Model card (README.md) of a Hub repository, generated from the facts in its config.json."""

from __future__ import annotations

import json
import re
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData

from ..wsol import METHODS
from .facts import supervision_text, teacher_text

LIMITS = """`localize` returns the box of the largest region: the models expect one object per image. The maps are
class-agnostic and highlight objects similar to those in the training images; the predicted label is always a class of
the training data. The license of the training images also restricts how the weights may be used."""


def model_card(config: dict[str, Any], repo_id: str) -> str:
    """Return the text of README.md, including its front matter.

    Args:
        config: Content of config.json, with the facts that were passed to `save_pretrained`.
        repo_id: `org/name`.
    """
    data = {'title': 'unknown data', 'license': 'unknown', **(config.get('dataset') or {})}
    weights, arguments = config['weights'], config['model_args']
    backbone = config.get('backbone') or arguments['backbone']
    decoder_only = (
        ' It contains the decoder only; the backbone is from timm.' if config.get('holds') == 'decoder' else ''
    )
    recipe = json.dumps(config['recipe'], indent=1) if config.get('recipe') else None
    teacher = teacher_text(config.get('teacher') or 'not recorded', config.get('recipe'))
    parts = [
        f'---\n{_front_matter(config, repo_id, data, backbone)}\n---',
        f'# {repo_id.split("/")[-1]}',
        (
            f'F-CAM (Belharbi et al., WACV 2022) on `{backbone}` with {config["num_classes"]} classes: one forward '
            f'pass classifies an image and segments its object at full resolution. {_labels_text(config.get("recipe"))}'
        ),
        '## Use',
        (
            f"```python\nimport fcam_zoo\n\nmodel = fcam_zoo.create_model('hf-hub:{repo_id}')\n"
            "(found,) = fcam_zoo.localize(model, 'photograph.jpg')\n"
            'found.label, found.box, found.mask, found.map\n```\n\n'
            f"`timm.create_model('hf-hub:{repo_id}', pretrained=True)` works after `import fcam_zoo`. "
            f'Append `@<commit>` to pin a revision.'
        ),
        '## Metrics',
        _metrics_table(config.get('metrics') or {}),
        '## Training',
        (
            f'Backbone `{backbone}`, output stride {arguments["output_stride"] or "of the network"}, decoder '
            f'{arguments.get("decoder_type", "unet")} {arguments["decoder_channels"]}, threshold '
            f'{arguments["threshold"]}. {_method_text(arguments.get("method"))}Teacher: {teacher}. '
            f'Selection: {config.get("selection") or "not recorded"}'
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
        f'`{weights["file"]}`: {weights["size"]:,} bytes, SHA-256 `{weights["sha256"]}`.{decoder_only}',
    ]
    return '\n\n'.join(parts) + '\n'


def _labels_text(recipe: dict[str, Any] | None) -> str:
    """Say which annotations the training used."""
    val = 'boxes or masks of the validation split, if any, only selected the epoch and the threshold.'
    if supervised := supervision_text(recipe):
        return f'The decoder was trained with {supervised}, the classifier with image labels; {val}'
    return f'Trained with image labels; {val}'


def _method_text(method: dict[str, Any] | None) -> str:
    """Describe the training method, such as 'Method of the classifier: HaS (cell 44, rate 0.5). '; '' without any."""
    if method is None:
        return ''
    settings = ', '.join(f'{key} {value}' for key, value in method.items() if key != 'name')
    return f'Method of the classifier: {METHODS[method["name"]].title}{f" ({settings})" if settings else ""}. '


def _front_matter(config: dict[str, Any], repo_id: str, data: dict[str, Any], backbone: str) -> str:
    titles = _titles()
    results = [
        EvalResult(
            task_type='image-segmentation',
            task_name='Weakly-supervised object localization',
            dataset_type=_slug(data['title']),
            dataset_name=data['title'],
            dataset_split=split,
            metric_type=key,
            metric_name=titles[key],
            metric_value=value,
        )
        for split, kinds in (config.get('metrics') or {}).items()
        if not split.endswith('_last_epoch')
        for key, value in kinds.get('fcam', {}).items()
        if key in titles
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


def _titles() -> dict[str, str]:
    """Return the titles of all metrics for boxes and masks by key, without thresholds."""
    from ..benchmark.descriptions import describe  # Imports OpenCV, which loading a model does not need.

    boxes = describe({'mean': 0, 'max_box_acc_30': 0, 'max_box_acc_50': 0, 'max_box_acc_70': 0})
    masks = describe({'pxap': 0})
    return {c.key: c.label for metric in (boxes, masks) for c in metric.columns if not c.setting}


def _license(config: dict[str, Any]) -> str:
    """Return the license of the weights; default: that of the backbone."""
    return config.get('license') or config['pretrained_cfg'].get('license') or 'unknown'


def _base_model(backbone: str) -> str | None:
    """Return the Hub repository of timm's weights, or else their name; None for an architecture without weights."""
    if '.' not in backbone:
        return None
    return f'timm/{backbone}' if timm.is_model_pretrained(backbone) else backbone


def _slug(title: str) -> str:
    return re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')


def epochs_text(epochs: dict[str, Any]) -> str:
    """' (<stage> epoch 3 of 8, …)', or '' if no epochs were recorded."""
    parts = [f'{stage} epoch {of["best"]} of {of["last"]}' for stage, of in epochs.items()]
    return f' ({", ".join(parts)})' if parts else ''


def _metrics_table(metrics: dict[str, Any]) -> str:
    titles = _titles()
    keys = [k for k in titles if any(k in found for kinds in metrics.values() for found in kinds.values())]
    if not keys:
        return 'None were measured.'
    lines = [f'| split | maps | {" | ".join(titles[k] for k in keys)} |', '|---' * (len(keys) + 2) + '|']
    for split, kinds in metrics.items():
        for kind, found in kinds.items():
            cells = [f'{found[k]:.1f}' if k in found else '-' for k in keys]
            lines.append(f'| {split.replace("_", " ")} | {kind} | {" | ".join(cells)} |')
    note = 'Percent. Metrics at the chosen threshold use that of the model, the others their own best threshold.'
    return '\n'.join([*lines, '', note])
