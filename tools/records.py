"""The two files of measured models: weights/index.json (released) and results/measured.json (only recorded)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fcam_zoo import _index
from fcam_zoo._index import ReleaseEntry
from fcam_zoo._io import write_json

ROOT = Path(__file__).resolve().parents[1]


def results_dir() -> Path:
    """Return the folder of the tables and of measured.json."""
    return ROOT / 'results'


def recorded() -> dict[str, ReleaseEntry]:
    """Return the models that were measured and are not released, by name.

    Raises:
        WeightsError: If results/measured.json is damaged.
    """
    path = results_dir() / 'measured.json'
    if not path.is_file():
        return {}
    return _index.read_entries(path, 'restore it from git')


def entries() -> list[ReleaseEntry]:
    """Return all measured models, released or not, sorted by name."""
    return sorted([*_index.index().values(), *recorded().values()], key=lambda entry: entry.name)


def write_index(released: Mapping[str, ReleaseEntry]) -> None:
    """Write weights/index.json."""
    write_json(_index.weights_dir() / 'index.json', [released[name].to_dict() for name in sorted(released)])
    _index.index.cache_clear()


def write_recorded(found: Mapping[str, ReleaseEntry]) -> None:
    """Write results/measured.json."""
    write_json(results_dir() / 'measured.json', [found[name].to_dict() for name in sorted(found)])
