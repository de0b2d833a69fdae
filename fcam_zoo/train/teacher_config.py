"""Settings of the teacher: where the maps come from that guide the decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from .._schema import InvalidValue, between, check
from ..models.config import Variant
from .setting_types import Fusion, ImageSide, Line, Method, Stage

# The model that a training starts from, as a teacher.
INIT = 'init'


@dataclass
class TeacherConfig:
    """The teacher: where the maps come from that guide the decoder.

    By default it is the classifier of the model itself, as in the paper; its maps are computed in each step. With
    `model`, `layers`, `flip`, `sizes`, `maps` or `supervision`, the maps of whole training images are computed once,
    stored in 8 bits, and cropped and flipped with the images.

    Attributes:
        method: A CAM method, or 'fcam' for the maps of a finished F-CAM, which is given as `model` (self-training).
            With several models, one method for all of them or a list with one for each. None is 'cam' for the
            classifier in training, if its training method has its own map, and else 'layercam'.
        model: An F-CAM, whose classifier (or decoder, for 'fcam') makes the maps: a released name, a model folder
            or `hf-hub:`. Its classes must include those of the data. 'init', with method 'fcam', is the model that the
            training starts from, as it was then. In a list of several, None is the classifier in training itself.
        consensus: How the maps of several models are fused (see `cams.fuse`).
        layers: Layers of the classifier whose maps are fused: dotted names, or numbers of stages of a CNN, -1 for the
            last; default: the last feature map.
        fusion: How the maps of several layers are fused (see `cams.fuse`).
        flip: Average the maps of each image and of its mirror image.
        sizes: Average the maps of each image at these sides in pixels; default: image_size.
        maps: Folder of score maps from any other tool, `<image id>.npy`, (H,W) in [0,1]; replaces all of the above.
        supervision: Number of training images per class whose boxes or masks are the maps. The decoder is trained only
            on these images (see `supervision`); 0: none (weak supervision).
        cache: Folder of the stored maps, which several trainings can share; default: `teacher` in the run folder.
        variant: Variant of Grad-CAM++ and Smooth Grad-CAM++ (see `cams.methods`), also of the class maps of the
            finished model. The paper's numbers are those of 'reference'.
    """

    method: Method | list[Method | None] | None = None
    model: Line | list[Line | None] | None = None
    consensus: Fusion = 'mean'
    layers: list[Line | Stage] = field(default_factory=list)
    fusion: Fusion = 'geometric_mean'
    flip: bool = False
    sizes: list[ImageSide] = field(default_factory=list)
    maps: Line | None = None
    supervision: Annotated[int, between(0, 2**20)] = 0
    cache: Line | None = None
    variant: Variant = 'published'

    def __post_init__(self) -> None:
        check(self, 'teacher')
        if self.method is None and (self.models or self.layers or self.maps or self.supervision):
            self.method = 'layercam'
        if isinstance(self.method, list) and len(self.method) != len(self.models):
            raise InvalidValue(
                f'teacher.method has {len(self.method)} methods for {len(self.models)} models: give one for each model'
            )
        if any(model == INIT and method != 'fcam' for model, method in zip(self.models, self.methods)):
            raise InvalidValue(
                "teacher.model 'init' is the F-CAM that the training starts from: give teacher.method='fcam' for it, "
                'or another teacher.model (./init is a folder of this name)'
            )
        if self.consensus != 'mean' and len(self.models) < 2:
            raise InvalidValue(
                f'teacher.consensus={self.consensus} fuses the maps of several models: give two or more as '
                'teacher.model, or leave it out'
            )
        if 'fcam' in self.methods and not (self.models or self.maps):
            raise InvalidValue(
                "teacher.method is 'fcam': give a finished F-CAM as teacher.model, such as init (the model of init)"
            )
        if any(model is None and method == 'fcam' for model, method in zip(self.models, self.methods)):
            raise InvalidValue(
                "teacher.method is 'fcam' for the classifier in training (null in teacher.model), which has no F-CAM "
                'yet: give a CAM method for it'
            )
        if self.layers and set(self.methods) == {'fcam'}:
            raise InvalidValue("teacher.layers are layers of a classifier: leave them out with teacher.method='fcam'")
        if self.supervision and (self.maps or self.models or self.layers or self.flip or self.sizes):
            raise InvalidValue(
                'teacher.supervision uses boxes or masks as maps: leave out teacher.model, layers, flip, sizes, maps'
            )
        if self.maps and (self.models or self.layers or self.flip or self.sizes):
            raise InvalidValue('teacher.maps holds the maps: leave out teacher.model, layers, flip and sizes')
        if self.cache and not self.is_stored:
            raise InvalidValue(
                'teacher.cache stores the maps of another teacher: give teacher.model, layers, flip, sizes, maps '
                'or supervision'
            )

    @property
    def models(self) -> list[str | None]:
        """Return the names of the models, None for the classifier in training; empty if that is the only one."""
        return [self.model] if isinstance(self.model, str) else list(self.model or ())

    @property
    def names(self) -> list[str]:
        """Return the names of other models, without 'init' and None."""
        return [name for name in self.models if name not in (INIT, None)]

    @property
    def methods(self) -> list[str]:
        """Return the method of each model, or of the classifier of the model itself; '' for the default."""
        several = self.method if isinstance(self.method, list) else [self.method] * max(1, len(self.models))
        return [method or '' for method in several]

    @property
    def is_stored(self) -> bool:
        """Return whether the maps are computed once and stored."""
        return bool(self.models or self.layers or self.flip or self.sizes or self.maps or self.supervision)
