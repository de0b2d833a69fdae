"""The interface of WSOL training methods: `WSOLMethod`, and the records that pass through it.

A method changes how the classifier is trained, and may give its own class map. `FCAM.method` always holds one: by
default the plain `WSOLMethod`, which is cross-entropy and CAM. Each step of the classifier stage calls, in this order,

    draws = method.draw(images.shape, generators)            # all random numbers of the step
    images, targets = method.augment(images, targets, draws)  # e.g. HaS, CutMix
    with method.applied(draws):                               # what hooks do in training only, e.g. ADL
        encoding = FCAM.encode(images)                        # the one pass of the backbone
        output = method(encoding, targets, draws)             # logits, and named terms whose sum is the loss

and everything after training (validation, the decoder's teacher, benchmark, predict) calls

    logits = method.logits(encoding)                          # if own_head
    maps = method.class_map(encoding, labels)                 # if own_map, for the map named 'cam'

To add a method, write one file with a subclass and its settings, and add it to `wsol.METHODS` and
`_catalog.WSOL_METHODS`. The rules:

- Override only what differs. `Settings` is a dataclass with checked fields and defaults; it is saved in config.json.
- Random numbers are drawn in `draw` only: draws per image from `generators.images`, draws per batch from
  `generators.step`. Both depend only on seed, epoch and step, so a resumed run repeats them. Dropout layers may use the
  global generator, which is seeded as well. Nothing is drawn outside of training.
- Modules and buffers of the method are saved under `method.`; names of the backbone stay timm's. Reach the network
  through `self.network`, which is not a submodule. Modules of the method are trained at `classifier.head_lr`.
- Hooks are registered in `__init__` with `self.hook`. Those that act in training only must do so only in `applied`;
  those that are part of the network (non-local blocks) act always. A hook must not depend on `self.training`.
- With own_head, the classifier of the backbone is not used, and `logits` replaces it.
- A backbone that does not fit raises UnknownModelError in `__init__`: '<title> needs …: choose another backbone'.
- Attention is compared with thresholds in float32, also with AMP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import torch
import torch.nn as nn
import torch.nn.functional as F

from .._modes import eval_mode
from .._schema import Rule, between, check, length
from ..errors import UnknownModelError

# Side of the image on which the shapes of layers are measured: large enough for every network.
PROBE_SIDE = 224
# Hints of settings: dotted names of layers, and the width of a layer.
Layers = Annotated[list[Annotated[str, Rule(bool, 'name a layer')]], length(0, 16)]
Channels = Annotated[int, between(1, 4096)]


class Encoding(Protocol):
    """Output of the network without its head (`models.pyramid.Encoding`).

    Attributes:
        levels: Maps of the stages (B,C_i,h_i,w_i), from high to low resolution.
        features: The last map (B,C,h,w); with `prefix` the input of the head.
        prefix: Class and register tokens (B,P,C) of a vision transformer, else None.
        images: Input of the network (B,3,H,W).
    """

    @property
    def levels(self) -> list[torch.Tensor]: ...
    @property
    def features(self) -> torch.Tensor: ...
    @property
    def prefix(self) -> torch.Tensor | None: ...
    @property
    def images(self) -> torch.Tensor: ...


@dataclass
class Network:
    """What a method may use of the network.

    Attributes:
        net: The timm network.
        layout: Of the features inside the network: 'NCHW' in a CNN, 'NHWC', or 'NLC' for tokens.
        num_classes: Number of classes K.
        in_chans: Channels of the images.
        channels: Channels of each level of an encoding.
        num_features: Channels C of the features of an encoding.
        linear_head: Whether its own head is average pooling and one linear layer.
        encode: Images (B,3,H,W), normalized -> encoding.
        head: Encoding -> logits (B,K) of the network's own head.
    """

    net: nn.Module
    layout: Literal['NCHW', 'NHWC', 'NLC']
    num_classes: int
    in_chans: int
    channels: list[int]
    num_features: int
    linear_head: bool
    encode: Callable[[torch.Tensor], Encoding]
    head: Callable[[Any], torch.Tensor]

    def stages(self, count: int) -> list[str]:
        """Return the names of the modules at the ends of the last stages, by timm's feature_info."""
        info: Any = self.net.feature_info
        return [level['module'] for level in (info.get_dicts() if hasattr(info, 'get_dicts') else info)][-count:]

    @torch.no_grad()
    def shapes(self, names: Sequence[str], title: str) -> list[torch.Size]:
        """Return the shapes of the outputs of layers, (1,C,h,w) each, for an image of 224 pixels.

        Raises:
            UnknownModelError: When the network lacks a layer, does not run it, or its output is not a map; the message
                begins with the title of the method.
        """
        modules, found = dict(self.net.named_modules()), dict[str, torch.Size]()
        if missing := [name for name in names if name not in modules]:
            raise UnknownModelError(f'{title}: the backbone has no layer {missing[0]!r}: name one of its modules')
        parameter = next(self.net.parameters())
        x = torch.zeros(1, self.in_chans, PROBE_SIDE, PROBE_SIDE, dtype=parameter.dtype, device=parameter.device)

        def record(name: str) -> Callable[..., None]:
            return lambda _module, _inputs, output: found.update({name: getattr(output, 'shape', torch.Size())})

        handles = [modules[name].register_forward_hook(record(name)) for name in names]
        try:
            with eval_mode(self.net):
                self.encode(x)
        finally:
            for handle in handles:
                handle.remove()
        for name in names:
            if len(found.get(name, ())) != 4:
                raise UnknownModelError(f'{title}: the output of layer {name!r} is not a map (B,C,h,w): choose another')
        return [found[name] for name in names]


class Generators(NamedTuple):
    """Sources of the draws of a step, on the CPU: one for the batch, and one for each image."""

    step: torch.Generator
    images: Sequence[torch.Generator]


class Targets(NamedTuple):
    """What the classifier should predict.

    Attributes:
        labels: Class of each image (B,).
        smoothing: Label smoothing in [0,1).
        other: Second class of each image (B,), where images are mixed.
        share: Share of `labels`; the rest is that of `other`.
    """

    labels: torch.Tensor
    smoothing: float = 0.0
    other: torch.Tensor | None = None
    share: float = 1.0

    def cross_entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """Compute share * CE(logits, labels) + (1 - share) * CE(logits, other) of logits (B,K), a scalar."""
        own = F.cross_entropy(logits, self.labels, label_smoothing=self.smoothing)
        if self.other is None:
            return own
        return self.share * own + (1 - self.share) * F.cross_entropy(logits, self.other, label_smoothing=self.smoothing)


class TrainingOutput(NamedTuple):
    """Output of a method in training: logits (B,K) in float32, and the weighted terms of the loss by name."""

    logits: torch.Tensor
    terms: dict[str, torch.Tensor]


def of_labels(maps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the map of the label of each image: (B,K,h,w) and (B,) -> (B,h,w)."""
    return maps[torch.arange(len(maps), device=maps.device), labels]


@dataclass
class MethodSettings:
    """Settings of a method; subclasses are dataclasses whose hints have rules (see `_schema`)."""

    def __post_init__(self) -> None:
        check(self, 'method')


class WSOLMethod(nn.Module):
    """A training method of the classifier. This class is the plain one: cross-entropy, and CAM as the class map.

    Args:
        network: The network to train.
        settings: Settings of this class's type `Settings`.

    Attributes:
        name: Name in `wsol.METHODS`; '' for the plain method.
        title: Name in messages.
        own_head: Whether `logits` replaces the network's own head.
        own_map: Whether the map named 'cam' is `class_map` instead of the CAM of the network's own head.
        mixes: Whether training may mix the labels of images (CutMix); False if the loss needs one label per image.
        pairs: Whether images 2j and 2j+1 of a batch should have the same class.
        least_images: Fewest images of a training batch, for batch norms of one value per image.

    Raises:
        UnknownModelError: When the backbone does not fit.
    """

    name: ClassVar[str] = ''
    title: ClassVar[str] = 'CAM'
    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    own_head: ClassVar[bool] = False
    own_map: ClassVar[bool] = False
    mixes: ClassVar[bool] = True
    pairs: ClassVar[bool] = False
    least_images: ClassVar[int] = 1

    def __init__(self, network: Network, settings: Any) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self._handles: list[Any] = []

    def draw(self, shape: torch.Size, generators: Generators) -> Any:
        """Draw the random numbers of a step for images of a shape (B,3,H,W), in the form that this method uses."""
        return None

    def augment(self, images: torch.Tensor, targets: Targets, draws: Any) -> tuple[torch.Tensor, Targets]:
        """Change images (B,3,H,W), normalized (0 is the mean color), and their targets; not in place."""
        return images, targets

    @contextmanager
    def applied(self, draws: Any) -> Iterator[None]:
        """Run the network in the block as in training, with these draws."""
        yield

    def forward(self, encoding: Encoding, targets: Targets, draws: Any) -> TrainingOutput:
        """Compute logits, and the terms whose sum is the loss."""
        logits = self.logits(encoding).float()
        return TrainingOutput(logits, {'ce': targets.cross_entropy(logits)})

    def logits(self, encoding: Encoding) -> torch.Tensor:
        """Compute the logits (B,K) of an encoding, without its labels."""
        return self.network.head(encoding)

    def class_map(self, encoding: Encoding, labels: torch.Tensor) -> torch.Tensor:
        """Compute the method's own map (B,h,w) of labels (B,); the caller normalizes and resizes it.

        It must not change with the other images of the batch. It may run under no_grad, on an encoding in float32.

        Raises:
            TypeError: For a method without `own_map`.
        """
        raise TypeError(f'{type(self).__name__} has no map of its own: use the CAM of the head, or override class_map')

    def hook(self, layer: str, function: Callable[..., torch.Tensor | None]) -> None:
        """Register a forward hook on a layer of the network.

        `function` must be a bound method or a `functools.partial` of one, so that a copy of the model gets hooks of its
        own method.
        """
        self._handles.append(self.network.net.get_submodule(layer).register_forward_hook(function))

    def remove_hooks(self) -> None:
        """Remove the hooks of this method from the network."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def check_maps(self) -> None:
        """Raise UnknownModelError unless the network is a CNN, whose layers output maps (B,C,h,w)."""
        if self.network.layout != 'NCHW':
            raise UnknownModelError(
                f'{self.title} needs a convolutional network, and {type(self.network.net).__name__} is another: choose '
                'another backbone'
            )
