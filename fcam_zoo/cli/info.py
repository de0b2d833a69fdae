"""fcam-zoo info"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._io import one_line
from ._arguments import MODEL

if TYPE_CHECKING:
    from .._index import ReleaseEntry

TITLES = {'fcam': 'F-CAM', 'cam': 'CAM', 'layercam': 'LayerCAM', 'center': 'center baseline'}
SHOWN_CLASSES = 3


def add_parser(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'info',
        description='Describe a model in a few lines: network, classes, data, metrics, threshold, file, license.',
    )
    parser.add_argument('name', help=MODEL)
    parser.add_argument('--json', action='store_true', help='print everything that is recorded, as JSON')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from .._index import index
    from ..models.names import full_name

    name = full_name(args.name)
    entry = index().get(name)
    facts = facts_of_release(entry) if entry else facts_of_model(name)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        for title, text in card(name, facts).items():
            print(one_line(f'{title:12}{text}', 300))
    return 0


def facts_of_release(entry: ReleaseEntry) -> dict[str, Any]:
    """Return everything that the index records, and how to load the model."""
    from ..models.names import short_name

    short = short_name(entry.name)
    return {**entry.to_dict(), 'short_name': short, 'load': f"fcam_zoo.create_model('{short}', pretrained=True)"}


def facts_of_model(name: str) -> dict[str, Any]:
    """Load a model that is not released, and return its facts: those of its config.json and of the network.

    Raises:
        UnknownModelError: For an unknown name.
        FileNotFoundError, HubError, WeightsError: As `create_model`.
    """
    from .._download import CONFIG
    from .._schema import read_json
    from ..models.names import no_weights
    from ..models.zoo import create_model, find_source, is_folder_name

    model = create_model(name)
    facts = {
        'backbone': model.config.backbone,
        'num_classes': model.num_classes,
        'class_names': list(model.pretrained_cfg.get('label_names') or []),
        'model_args': model.model_args,
        'cost': {'parameters': sum(p.numel() for p in model.parameters())},
        'load': f'fcam_zoo.create_model({name!r})',
    }
    if ':' not in name and not is_folder_name(name):
        return {**facts, 'missing': str(no_weights(name))}
    path = find_source(name, local_files_only=True).path
    return {**read_json(path.with_name(CONFIG)), **facts, 'file': path.name, 'size': path.stat().st_size}


def card(name: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the lines of the card by title. The config.json of a folder may lack facts, or have other types."""
    data, args = mapping(facts, 'dataset'), mapping(facts, 'model_args')
    title, license, note, images = (data.get(key) for key in ('title', 'license', 'note', 'images'))
    lines = {
        'model': name,
        'network': network(facts),
        'classes': classes(facts),
        'data': joined(title, images and f'{images} training images', license and f'license: {license}', note),
        'teacher': facts.get('teacher'),
        'training': training(facts),
        **measured(mapping(facts, 'metrics')),
        **measured_elsewhere(facts),
        'threshold': joined(args.get('threshold'), facts.get('selection')),
        'weights': facts['missing'] if 'missing' in facts else f'{facts["file"]}, {facts["size"] / 2**20:.1f} MB',
        'license': facts.get('license'),
        'load': facts['load'],
    }
    return {title: str(text) for title, text in lines.items() if text}


def network(facts: Mapping[str, Any]) -> str:
    """Describe backbone, decoder and cost."""
    args, cost = mapping(facts, 'model_args'), mapping(facts, 'cost')
    gmacs, speed = cost.get('gmacs'), cost.get('images_per_second')
    return joined(
        facts['backbone'],
        f'{args.get("decoder_type", "unet")} decoder',
        f'{cost["parameters"] / 1e6:.2f} million parameters',
        gmacs and f'{gmacs} GMACs',
        speed and f'{speed:.0f} images/s on {cost.get("threads")} CPU thread',
    )


def classes(facts: Mapping[str, Any]) -> str:
    """Return the number of classes and the first names."""
    names = facts['class_names']
    more = ', …' if len(names) > SHOWN_CLASSES else ''
    return f'{facts["num_classes"]}{": " * bool(names)}{", ".join(names[:SHOWN_CLASSES])}{more}'


def training(facts: Mapping[str, Any]) -> str:
    """Describe when, how long and with which version a model was trained; '' for a released model."""
    trained, epochs = mapping(facts, 'trained'), mapping(facts, 'epochs')
    if not trained:
        return ''
    stages = (
        f'{stage} epoch {mapping(epochs, stage).get("best")} of {mapping(epochs, stage).get("last")}'
        for stage in epochs
    )
    version = trained.get('fcam_zoo')
    return joined(*stages, version and f'fcam_zoo {version}', trained.get('date'))


def measured_elsewhere(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the main metric of each kind of map on the test splits of other data sets, if there is none on its own."""
    from .._index import main_metric

    if main_metric(mapping(mapping(mapping(facts, 'metrics'), 'test'), 'fcam')):
        return {}
    places = mapping(facts, 'elsewhere')
    return {place: text for place in places for text in measured(mapping(places, place)).values()}


def measured(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return the main metric of each kind of map, on test, val or train; without one, the accuracy or `kept`."""
    from .._index import main_metric

    for split in ('test', 'val', 'train'):
        kinds = {kind: values for kind, values in mapping(metrics, split).items() if isinstance(values, dict)}
        found = {kind: metric for kind in sorted(kinds, key=order) if (metric := main_metric(kinds[kind]))}
        if found:
            name = next(iter(found.values()))[0]
            maps = ', '.join(f'{TITLES.get(kind, kind)} {value:.1f}' for kind, (_, value) in found.items())
            accuracy = kinds[next(iter(found))].get('cls')
            return {split: f'{name}: {maps}' + (f'; accuracy: {accuracy}' if accuracy is not None else '')}
        own = kinds.get('fcam') or next(iter(kinds.values()), {})
        if isinstance(accuracy := own.get('cls'), (int, float)):
            return {split: f'accuracy: {accuracy}'}
        if isinstance(kept := own.get('kept'), (int, float)):
            return {split: f'probability of the label without background: {kept}'}
    return {}


def order(kind: str) -> tuple[bool, bool]:
    """Sort the F-CAM first, and the center baseline last."""
    return kind != 'fcam', kind == 'center'


def joined(*parts: Any) -> str:
    """Join the parts that are known."""
    return ', '.join(str(part) for part in parts if part not in (None, ''))


def mapping(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a dict of facts; an empty one if it is missing or has another type."""
    value = values.get(key)
    return value if isinstance(value, dict) else {}
