"""Whether the classes of a data set are classes of the model: compared by name, where both have names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from torch import nn

from .._schema import show

if TYPE_CHECKING:
    from timm.data import ImageNetInfo

# Class of the class maps: that of the image if the model knows it by name, always that of the image, or the predicted.
Labels = Literal['auto', 'true', 'predicted']
LABELS = get_args(Labels)

_WORDNET_ID = re.compile(r'n\d{8}')


class ModelLabels(NamedTuple):
    """Labels of the images as classes of the model.

    Attributes:
        indices: int64 (N), outputs of the model; None if the predicted classes are explained.
        reason: Why 'auto' chose the predicted classes; None otherwise.
    """

    indices: np.ndarray | None
    reason: str | None = None

    @property
    def kind(self) -> Literal['true', 'predicted']:
        """Return the class of the class maps."""
        return 'predicted' if self.indices is None else 'true'


def labels_for(source: Any, dataset: Any, labels: Labels) -> ModelLabels:
    """Find the outputs of a model that stand for the classes of a data set.

    With 'auto', classes are compared by name. If the model has a class with the name of each class of the images, these
    are its labels, even if the data set numbers them in another way. If it lacks one, the result is class-agnostic.
    Where one side has only numbers, there are no names to compare: the numbers are assumed to be those of the model,
    unless it has fewer classes.

    Args:
        source: A model, or another source of maps, which gets the labels unchanged.
        dataset: `labels` (N) and, if it has names, `class_names` (label -> name).
        labels: 'auto', 'true' (the numbers of the data set are those of the model) or 'predicted'.

    Raises:
        ValueError: For 'true' and a label that the model does not have.
    """
    if labels == 'predicted':
        return ModelLabels(None)
    indices = np.asarray(dataset.labels, np.int64)
    count = getattr(source, 'num_classes', None)
    if not isinstance(source, nn.Module) or not indices.size:
        return ModelLabels(indices)
    data_name, largest = getattr(dataset, 'name', 'the data set'), int(indices.max())
    if labels == 'true':
        if isinstance(count, int) and largest >= count:
            raise ValueError(
                f'{data_name} has labels up to {largest}, but the model only has {count} classes: for classes that the '
                "model was not trained on, use labels='predicted' (--labels predicted)"
            )
        return ModelLabels(indices)
    own = {int(i): str(getattr(dataset, 'class_names', {}).get(i, i)) for i in np.unique(indices).tolist()}
    config = getattr(source, 'pretrained_cfg', None) or {}
    known = [str(name) for name in config.get('label_names') or ()]
    if _has_names(own) and _has_names(dict(enumerate(known))):
        return _by_name(indices, own, known, data_name)
    if isinstance(count, int) and largest >= count:
        return ModelLabels(None, f'{data_name} has labels up to {largest}, but the model only has {count} classes')
    return ModelLabels(indices)


def _by_name(indices: np.ndarray, own: Mapping[int, str], known: Sequence[str], data_name: str) -> ModelLabels:
    names = [_comparable(name) for name in known]
    unnamed = {i for i, name in own.items() if name == str(i)}  # Some classes of the WSOL layout.
    # Names may repeat, as 'crane' in ImageNet: the same number is the better match.
    if all(i < len(names) and (i in unnamed or names[i] == _comparable(name)) for i, name in own.items()):
        return ModelLabels(indices)
    first = {name: i for i, name in reversed(list(enumerate(names)))}
    missing = [name for i, name in own.items() if i in unnamed or _comparable(name) not in first]
    if missing:
        return ModelLabels(
            None,
            f'{len(missing)} of {len(own)} classes of {data_name} are not classes of the model, the first '
            f'{show(missing[0])}',
        )
    translated = {i: first[_comparable(name)] for i, name in own.items()}
    return ModelLabels(np.array([translated[i] for i in indices.tolist()], np.int64))


def _has_names(names: Mapping[int, str]) -> bool:
    """Return whether some classes have a name that is not only their number."""
    return any(name != str(i) for i, name in names.items())


@lru_cache(maxsize=1 << 16)
def _comparable(name: str) -> str:
    """Return a name without what data sets write differently: case, separators, leading number, WordNet ids."""
    if _WORDNET_ID.fullmatch(name):
        info = _imagenet()
        name = info.label_name_to_description(name) if name in info.label_names() else name
    return ' '.join(re.findall(r'\w+', re.sub(r'^\d+\.', '', name).replace('_', ' ').casefold())) or name


@lru_cache(maxsize=1)
def _imagenet() -> ImageNetInfo:
    from timm.data import ImageNetInfo  # Worker processes do not need timm, which takes seconds to import.

    return ImageNetInfo('imagenet-1k')
