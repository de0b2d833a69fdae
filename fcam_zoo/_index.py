"""Model names, and the index of released weights, `weights/index.json`."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from ._catalog import RELEASED_RECIPES
from ._download import fetch, split_id, verify_download
from ._schema import InvalidValue, build, convert, read_bytes, read_json, reading, show
from ._weights import verify_file
from .errors import UnknownModelError, WeightsError

# Metrics of one split by kind of map: {'fcam': {'max_box_acc_50': 81.5}}.
Metrics = dict[str, dict[str, float]]
_MAIN_METRICS = {'max_box_acc_50': 'MaxBoxAcc', 'pxap': 'PxAP'}
# A teacher's name has no underscore, except before a final cam or ccam (ts_cam, nl_ccam).
_PATTERN = re.compile(
    r'(?P<architecture>fcam_[a-z0-9_]+)\.(?P<teacher>[a-z0-9]+(?:_c?cam)?)_(?P<dataset>[a-z0-9]+)'
    r'(?:_(?P<variant>[a-z0-9_]+))?'
)


@dataclass(frozen=True)
class ModelName:
    """The parts of a model name, `fcam_<backbone>.<teacher>_<dataset>[_<variant>]`.

    Attributes:
        architecture: timm architecture, `fcam_<backbone>`.
        teacher: CAM method whose maps trained the decoder.
        dataset: Short name of the training data.
        variant: Distinguishes training runs of the same model, such as `seed1`.
    """

    architecture: str
    teacher: str
    dataset: str
    variant: str = ''

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Split a full name.

        Raises:
            UnknownModelError: When the text does not have the form of a name.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            form = 'fcam_<backbone>.<teacher>_<dataset>, e.g. fcam_resnet50.layercam_cub'
            raise UnknownModelError(f'{text!r} is not a model name: use {form}')
        return cls(**match.groupdict(default=''))

    @property
    def tag(self) -> str:
        """timm tag, `<teacher>_<dataset>`, followed by the variant if there is one."""
        return '_'.join(part for part in (self.teacher, self.dataset, self.variant) if part)

    @property
    def hub_name(self) -> str:
        """torch.hub name, `fcam_<backbone>_<dataset>`; the same for all teachers."""
        return f'{self.architecture}_{self.dataset}'

    def __str__(self) -> str:
        return f'{self.architecture}.{self.tag}'


@dataclass
class DatasetFacts:
    """A data set: its title, the license of its images, and a note for readers of its metrics."""

    title: str
    license: str
    note: str = ''


@dataclass
class ReleaseEntry:
    """A measured model: an entry of weights/index.json or results/measured.json. Only released models have a file.

    Attributes:
        name: `fcam_<backbone>.<teacher>_<dataset>`.
        backbone: timm name of the weights from which the classifier started.
        teacher: CAM method whose maps trained the decoder.
        num_classes: Classes of the classifier.
        class_names: Class names, in the order of the logits.
        model_args: Arguments of `FCAM`, except backbone and num_classes.
        dataset: The training data.
        metrics: By split, at the best epoch; those of the last epoch are under `<split>_last_epoch`.
        epochs: Best and last epoch of each training stage.
        selection: How the best epoch was chosen.
        license: License of the weights.
        cost: Parameters, 10^9 multiplications, images per second, and threads.
        commit: Commit of the code that measured the model.
        recipe: Settings of `fcam-zoo train` of a model that is not released (see `recipe_of`).
        elsewhere: Metrics on other data sets, by data set and split.
        remark: Training details that the recipe does not record.
        file: File name of the weights; '' when they are not released.
        size: Size of the file in bytes.
        sha256: SHA-256 of the file.
        hf_hub_id: `org/name@commit` if the file is on the Hub; '' if it is in the weights folder.
        holds: 'decoder' if the file has only the decoder; its classifier is timm's `backbone`, with timm's weights.
        classifier_sha256: Digest of the tensors of that classifier.
    """

    name: str
    backbone: str
    dataset: DatasetFacts
    teacher: str
    metrics: dict[str, Metrics]
    epochs: dict[str, dict[str, int]]
    selection: str
    license: str
    num_classes: int
    class_names: list[str]
    model_args: dict[str, Any]
    elsewhere: dict[str, dict[str, Metrics]] = field(default_factory=dict)
    cost: dict[str, int | float] = field(default_factory=dict)
    commit: str = ''
    recipe: dict[str, Any] = field(default_factory=dict)
    holds: str = ''
    classifier_sha256: str = ''
    file: str = ''
    size: int = 0
    sha256: str = ''
    hf_hub_id: str = ''
    remark: str = ''

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ReleaseEntry:
        """Build an entry from its JSON object.

        Raises:
            InvalidValue: For a missing or unknown key, or a value of a wrong type.
        """
        return build(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object, without optional fields that have no value."""
        required = {f.name for f in fields(self) if f.default is f.default_factory is MISSING}
        return {key: value for key, value in asdict(self).items() if value or key in required}

    def main_metric(self, kind: str = 'fcam', split: str = 'test') -> tuple[str, float] | None:
        """Return name and percentage of the main metric of a kind of map; None if it was not measured."""
        return main_metric(self.metrics.get(split, {}).get(kind, {}))

    @property
    def labels_only(self) -> bool:
        """Whether its data set has neither boxes nor masks, so that its maps are measured on other data sets only."""
        return self.main_metric() is None

    @property
    def holds_backbone(self) -> bool:
        """Whether the weight file also contains the classifier."""
        return self.holds != 'decoder'


def main_metric(metrics: dict[str, float]) -> tuple[str, float] | None:
    """Return name and percentage of the main metric among those of a kind of map; None if there is none."""
    found = ((title, metrics.get(key)) for key, title in _MAIN_METRICS.items())
    return next(((title, value) for title, value in found if isinstance(value, (int, float))), None)


def weights_dir() -> Path:
    """Return the folder of the released weights: inside the installed package, or next to it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / 'weights'
    return installed if installed.is_dir() else package.parent / 'weights'


def recipe_path(name: str) -> Path:
    """Return the file with the settings of the last training of a released model."""
    return RELEASED_RECIPES / f'{name}.yaml'


def recipe_of(entry: ReleaseEntry) -> dict[str, Any]:
    """Return the settings of the training of a measured model; those of a released one are in its file.

    Raises:
        WeightsError: When the file is missing or damaged.
    """
    if entry.recipe:
        return entry.recipe
    from ._yaml import parse_yaml  # Loading a model does not need PyYAML.

    path = recipe_path(entry.name)
    with reading(path, WeightsError, 'install fcam-zoo again'):
        return convert(dict[str, Any], parse_yaml(read_bytes(path).decode()), 'the content')


@functools.cache
def index() -> dict[str, ReleaseEntry]:
    """Return the released models by name.

    Raises:
        WeightsError: When the index is missing or damaged.
    """
    path = weights_dir() / 'index.json'
    if not path.is_file():
        raise WeightsError(f'{path} is missing: install fcam-zoo again')
    return read_entries(path, 'install fcam-zoo again')


def read_entries(path: Path, fix: str) -> dict[str, ReleaseEntry]:
    """Read a JSON list of entries, such as weights/index.json, into a dict by name.

    Args:
        path: The file.
        fix: How to fix a damaged file.

    Raises:
        FileNotFoundError: When the file does not exist.
        WeightsError: When it is damaged.
    """
    with reading(path, WeightsError, fix):
        values = read_json(path)
        if not isinstance(values, list):
            raise InvalidValue(f'the content is {show(values)}: give a list of entries')
        entries = [build(ReleaseEntry, entry, f'entry {i}') for i, entry in enumerate(values)]
    return {entry.name: entry for entry in entries}


def local_path(entry: ReleaseEntry, cache_dir: str | os.PathLike | None = None) -> Path | None:
    """Return the path of a released weight file, not verified; None if it is not downloaded yet."""
    if not entry.hf_hub_id:
        return weights_dir() / Path(entry.file).name
    repo_id, revision = split_id(entry.hf_hub_id)
    found = try_to_load_from_cache(repo_id, entry.file, None if cache_dir is None else Path(cache_dir), revision)
    return Path(found) if isinstance(found, str) else None


def fetch_weights(
    entry: ReleaseEntry, cache_dir: str | os.PathLike | None = None, local_files_only: bool = False
) -> Path:
    """Return the path of a released weight file, after checking its size and SHA-256; download it first if needed.

    Args:
        entry: Entry of the index.
        cache_dir: Download folder; default: that of the Hub's client.
        local_files_only: Do not download.

    Raises:
        HubError: When the file cannot be downloaded.
        WeightsError: When the file is missing, truncated or altered.
    """
    path = local_path(entry, cache_dir)
    if path is None:
        path = fetch(entry.hf_hub_id, entry.file, cache_dir=cache_dir, local_files_only=local_files_only)
    verify = verify_download if entry.hf_hub_id else verify_file
    return verify(path, entry.size, entry.sha256)
