"""README table and MODEL_CARD.md, made from the index: no figure is typed by hand.

`python -m fcam_zoo.hub.card` writes both; a test fails when they are stale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .. import _index
from .._io import write_text
from ..models import list_models
from .model_card import LIMITS, epochs_text
from .paper_form import MASKS

CARD_HEAD = f"""# Model card: released F-CAM weights

Made by `python -m fcam_zoo.hub.card` from `weights/index.json`; edit neither by hand.

Each model is a timm classifier, fine-tuned with image labels where its recipe gives it epochs, and a U-Net decoder
trained on the frozen classifier with the pixel-alignment loss of F-CAM (Belharbi et al., WACV 2022). No box or mask
was used to train; those of `val` chose the settings, the epoch and the default threshold. Weights are float16
safetensors, with batch-norm statistics in float32.

## Limits

{LIMITS}

Trained on small sets from a small backbone, the models are examples and baselines, not products."""
BOXES = {
    **{f'max_box_acc_{iou}': f'IoU {iou}' for iou in (30, 50, 70)},
    'mean': 'V2',
    'top1_50': 'top-1 loc.',
    'top5_50': 'top-5 loc.',
    'cls': 'cls',
}
BEGIN, END = '<!-- models: begin (python -m fcam_zoo.hub.card) -->', '<!-- models: end -->'


def _table(metrics: dict[str, dict[str, dict[str, float]]]) -> str:
    """Splits by kind of map, the last epoch after the best; columns of boxes or of masks."""
    columns = MASKS if 'pxap' in metrics['test']['fcam'] else BOXES
    lines = [f'| split | maps | {" | ".join(columns.values())} |', '|---' * (len(columns) + 2) + '|']
    for split in ('val', 'test'):
        last = metrics.get(f'{split}_last_epoch', {}).get('fcam')
        kinds = {**metrics.get(split, {}), **({'fcam, last epoch': last} if last else {})}
        for kind, measured in kinds.items():
            cells = (f'{measured[key]:.1f}' if key in measured else '-' for key in columns)
            lines.append(f'| {split} | {kind} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def readme_table() -> str:
    """Released models with their figures on test."""
    lines = [
        '| model | data set | metric | CAM | teacher | F-CAM | top-1 loc. (F-CAM) | classification | MB |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for name in list_models(pretrained=True):
        entry = _index.released(name)
        test = entry.metrics['test']
        key, title = ('pxap', 'PxAP') if 'pxap' in test['fcam'] else ('max_box_acc_50', 'MaxBoxAcc (IoU 50)')
        cells = [f'{test[kind][key]:.1f}' for kind in ('cam', entry.teacher, 'fcam')]
        top1 = f'{test["fcam"]["top1_50"]:.1f}' if 'top1_50' in test['fcam'] else '-'
        lines.append(
            f'| `{name}` | {entry.dataset.title} | {title} | {cells[0]} | {cells[1]} ({entry.teacher}) | '
            f'**{cells[2]}** | {top1} | {test["fcam"]["cls"]:.1f} | {entry.size / 2**20:.1f} |'
        )
    return '\n'.join(lines)


def model_card() -> str:
    """The whole MODEL_CARD.md."""
    parts = [CARD_HEAD]
    for name in list_models(pretrained=True):
        parts.append(_section(name, _index.released(name)))
    return '\n\n'.join(parts) + '\n'


def _section(name: str, entry: _index.ReleaseEntry) -> str:
    data, metrics, arguments = entry.dataset, entry.metrics, entry.model_args
    kinds = metrics['test']
    key = 'pxap' if 'pxap' in kinds['fcam'] else 'max_box_acc_50'
    no_better = kinds['fcam'][key] <= kinds['cam'][key]
    elsewhere = [
        f'Figures on {place}, on which it was not trained:\n\n{_table(found)}'
        for place, found in entry.elsewhere.items()
    ]
    checkpoint = f'{entry.backbone}.safetensors'
    return '\n\n'.join(
        [
            f'## {name}',
            (
                f'- Data: {data.title}; {data.license}{"; " + data.note if data.note else ""}.\n'
                f'- Backbone: `{entry.backbone}`, output stride {arguments["output_stride"]}, no dilation; '
                f'decoder {arguments["decoder_channels"]}.\n'
                f'- Teacher: {entry.teacher}. Selection: {entry.selection}{epochs_text(entry.epochs)}.'
                f'{" " + entry.remark if entry.remark else ""}\n'
                f'- File: `{entry.file}`{_place(entry)}, {entry.size:,} bytes, SHA-256 `{entry.sha256}`; '
                f'{entry.license}.'
            ),
            *(['**On test its maps are no better than those of its CAM.**'] if no_better else []),
            _table(metrics),
            *elsewhere,
            'Percent; box figures are maxima over 1000 thresholds, each column its own. V2: mean of IoU 30, 50, 70.'
            if key == 'max_box_acc_50'
            else 'Percent.',
            (
                f'Recipe: `fcam-zoo train DATA -o RUN --recipe recipe.json --backbone-checkpoint {checkpoint}` '
                '(weights of the backbone in timm names, not shipped), with this recipe.json:'
            ),
            f'```json\n{json.dumps(entry.recipe, indent=1)}\n```',
        ]
    )


def _place(entry: _index.ReleaseEntry) -> str:
    """Where a file lies that is not in weights/, and what it leaves out."""
    place = f' of hf-hub:{entry.hf_hub_id}' if entry.hf_hub_id else ''
    return place + (
        ' (the decoder alone: the backbone is from timm, or from backbone_checkpoint)'
        if not entry.holds_backbone
        else ''
    )


def render_readme(text: str) -> str:
    """README with its table made anew.

    Raises:
        ValueError: When the markers are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f'the README has no lines {BEGIN!r} and {END!r} between which the table belongs')
    return f'{before}{BEGIN}\n{readme_table()}\n{END}{after}'


def main() -> int:
    """Write README.md and MODEL_CARD.md of the checkout in the current folder."""
    readme = Path('README.md')
    if not readme.is_file():
        print('fcam_zoo.hub.card: no README.md here: run it in the root of a checkout', file=sys.stderr)
        return 1
    write_text(readme, render_readme(readme.read_text(encoding='utf-8')))
    write_text('MODEL_CARD.md', model_card())
    return 0


if __name__ == '__main__':
    sys.exit(main())
