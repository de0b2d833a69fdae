"""Teachers other than the classifier in training: other networks, several layers or views, maps of another tool."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .. import cams
from .._io import is_folder
from .._modes import eval_mode
from .._weights import digest
from ..benchmark.map_files import MapFolder, read_map
from ..cams.layers import named_layer
from ..data import normalize
from ..data.base import ImageDataset
from ..data.values import plain
from ..errors import TrainingError
from ..hub.facts import has_decoder_stage, teacher_text
from ..models import FCAM, create_model
from ..models.zoo import is_folder_name
from .config import TrainConfig
from .setting_types import names_of
from .supervision import AnnotationTeacher, open_supervision
from .teacher_config import INIT, TeacherConfig

logger = logging.getLogger(__name__)


@dataclass
class TeacherNetwork:
    """One network of a teacher.

    Attributes:
        model: The network.
        method: A CAM method, or 'fcam' for the map of its decoder.
        classes: Its class index (K,) of each label of the data.
    """

    model: FCAM
    method: str
    classes: torch.Tensor

    def source(self) -> list[Any]:
        """Describe what its maps depend on."""
        # The maps of a classifier do not depend on the decoder.
        whole = self.method == 'fcam' or bool(self.model.method.state_dict())
        part = self.model if whole else self.model.backbone
        arguments = {k: v for k, v in self.model.model_args.items() if 'decoder' not in k and k != 'threshold'}
        mean = self.model.pretrained_cfg['mean']
        return [digest(part.state_dict()), self.method, arguments, mean, self.classes.tolist()]


@dataclass
class NetworkTeacher:
    """Class maps, or F-CAMs, of one or several networks.

    Attributes:
        networks: The networks.
        config: All settings of the training.
    """

    networks: list[TeacherNetwork]
    config: TrainConfig

    @torch.no_grad()
    def maps(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the maps (B,S,S) in [0,1] of images uint8 (B,3,H,W) and their labels (B,); S is image_size."""
        found = [self._mean_of_views(network, images, labels) for network in self.networks]
        return cams.fuse(found, self.config.teacher.consensus).clamp(0, 1)

    def _mean_of_views(self, network: TeacherNetwork, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        teacher, found = self.config.teacher, []
        own = network.classes.to(labels.device)[labels]
        with eval_mode(network.model):
            for side in teacher.sizes or [self.config.image_size]:
                x = self._view(network.model, images, side)
                found.append(self._map(network, x, own))
                if teacher.flip:
                    found.append(self._map(network, x.flip(3), own).flip(2))
        return cams.fuse(found, 'mean')

    def _view(self, model: FCAM, images: torch.Tensor, side: int) -> torch.Tensor:
        cfg = model.pretrained_cfg
        x = normalize(images, cfg['mean'], cfg['std'])
        return F.interpolate(x, size=(side, side), mode='bilinear', align_corners=False, antialias=True)

    def _map(self, network: TeacherNetwork, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the map (B,S,S) of one view; the shift is that of the network, so it comes before any flip."""
        teacher, side = self.config.teacher, self.config.image_size
        model, method = network.model, network.method
        if method == 'fcam':
            low = model.fcam(x)
        elif layers := layer_names(teacher, model):
            options: dict[str, Any] = {'variant': teacher.variant, 'fusion': teacher.fusion}
            low = cams.extract(model.backbone, x, labels, method, layers, None, **options)
        else:
            low = model.class_map(model.encode(x), labels, method, teacher.variant)
        down, right = self.config.decoder.shift
        return cams.resize(low.float(), (side, side), (down, right))

    def to(self, device: torch.device) -> None:
        """Move the networks."""
        for network in self.networks:
            network.model.to(device).to(memory_format=torch.channels_last)

    def source(self) -> dict[str, Any]:
        """Describe what the maps depend on: networks, weights and settings."""
        teacher = self.config.teacher
        return {
            'networks': [network.source() for network in self.networks],
            'consensus': teacher.consensus,
            'layers': teacher.layers,
            'fusion': teacher.fusion,
            'flip': teacher.flip,
            'sizes': teacher.sizes,
            'variant': teacher.variant,
        }


@dataclass
class FolderTeacher:
    """Maps that another tool has written, one `.npy` file for each image."""

    folder: MapFolder
    config: TrainConfig

    def read(self, index: int) -> torch.Tensor:
        """Read the map of an image, (1,S,S) in [0,1].

        Raises:
            TrainingError: When the file is not a map with values in [0,1].
        """
        path = self.folder.path(self.folder.ids[index])
        try:
            values = torch.from_numpy(read_map(path).astype(np.float32))[None]
        except ValueError as e:
            raise TrainingError(f'teacher.maps: {e}') from e
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise TrainingError(f'teacher.maps: {path} has values outside [0,1] or NaN: normalize the maps first')
        side, (down, right) = self.config.image_size, self.config.decoder.shift
        return cams.resize(values, (side, side), (down, right)).clamp(0, 1)

    def source(self) -> dict[str, Any]:
        """Describe what the maps depend on: the files."""
        files = [self.folder.path(i).stat() for i in self.folder.ids]
        return {'maps': [[file.st_size, file.st_mtime_ns] for file in files]}


Teacher = NetworkTeacher | FolderTeacher | AnnotationTeacher


def open_teacher(config: TrainConfig, train_set: ImageDataset, student: FCAM) -> Teacher | None:
    """Open the teacher and check it against the data; None for the classifier in training itself.

    Raises:
        DatasetError: When annotations of train are missing or invalid.
        TrainingError: When a class, a layer or a map is missing, or the method or the size does not fit the network.
        FcamZooError, FileNotFoundError: As `create_model`.
    """
    teacher = config.teacher
    if not teacher.is_stored:
        check_teacher(teacher, own_method(teacher, student), student, 'the model')
        return None
    if teacher.supervision:
        return open_supervision(config)
    if teacher.maps:
        try:
            return FolderTeacher(MapFolder(teacher.maps, train_set.ids), config)
        except ValueError as e:
            raise TrainingError(f'teacher.maps: {e}') from e
    if INIT in teacher.models:
        check_has_decoder(names_of(config.init))
    found = NetworkTeacher(open_networks(teacher, train_set, student), config)
    logger.info('teacher of the decoder: %s', teacher_text(default_method(student), config.to_dict()))
    try:
        side = max(teacher.sizes or [config.image_size])
        found.maps(torch.zeros(1, 3, side, side, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    except ValueError as e:
        raise TrainingError(f'the teacher cannot compute maps: {e}') from e
    return found


def open_networks(teacher: TeacherConfig, train_set: ImageDataset, student: FCAM) -> list[TeacherNetwork]:
    """Open the networks of a teacher, or take the classifier in training, and check them."""
    identity = torch.arange(train_set.num_classes)
    if not teacher.models:
        method = own_method(teacher, student)
        check_teacher(teacher, method, student, 'the model')
        return [TeacherNetwork(student, method, identity)]
    hint = ", or teacher.method='fcam', which needs no classes"
    networks, models = [], {name: create_model(name, pretrained=True) for name in dict.fromkeys(teacher.names)}
    if INIT in teacher.models:
        # No stage has trained the student yet: it is the model of init, except for the head.
        models[INIT] = copy.deepcopy(student)
    for name, method in zip(teacher.models, teacher.methods):
        model = student if name is None else models[name]
        method = method or default_method(model)
        check_teacher(teacher, method, model, name or 'the model')
        own_classes = name is None or method == 'fcam'
        classes = identity if own_classes else class_indices(str(name), model, train_set, hint)
        networks.append(TeacherNetwork(model, method, classes))
    return networks


def check_has_decoder(names: list[str]) -> None:
    """Raise TrainingError for a model folder whose training had no decoder stage."""
    for name in names:
        folder = Path(name.removeprefix('local-dir:'))
        if is_folder_name(name) and is_folder(folder) and not has_decoder_stage(folder):
            raise TrainingError(
                f'{name} was trained without a decoder stage, so its decoder does not fit its classifier: give '
                '--teacher layercam (or cam, for a method with its own map) for the class maps of its classifier'
            )


def own_method(teacher: TeacherConfig, student: FCAM) -> str:
    """Return the CAM method for maps of the classifier in training as its own teacher."""
    return teacher.methods[0] or default_method(student)


def default_method(model: FCAM) -> str:
    """Return the CAM method for the maps of a classifier: cam if its training method has its own map, else layercam."""
    return 'cam' if model.method.own_map else 'layercam'


def class_map_method(teacher: TeacherConfig, student: FCAM) -> str:
    """Return the CAM method for maps of the classifier in training: layercam if it is not its own teacher."""
    return 'layercam' if teacher.is_stored else own_method(teacher, student)


def layer_names(teacher: TeacherConfig, model: FCAM) -> list[str]:
    """Return the names of the layers of a teacher.

    Stages are left out for a network whose maps all have one stride, and for a head of its own, whose maps are those of
    the last features.

    Raises:
        TrainingError: When the network has fewer stages.
    """
    stages = [level['module'].removeprefix('backbone.') for level in model.feature_info]
    has_stages = not (model.pyramid.flat or model.method.own_head)
    names = [layer for layer in teacher.layers if isinstance(layer, str) or has_stages]
    if wrong := [layer for layer in names if isinstance(layer, int) and -layer > len(stages)]:
        backbone = model.model_args['backbone']
        raise TrainingError(f'teacher.layers: {backbone} has no stage {wrong[0]}, only {len(stages)} stages')
    return [layer if isinstance(layer, str) else stages[layer] for layer in names]


def check_teacher(teacher: TeacherConfig, method: str, model: FCAM, name: str) -> None:
    """Raise TrainingError unless the classifier of a model has the layers and a head that the method needs."""
    if method == 'fcam':
        return
    own = model.method
    if own.own_head and layer_names(teacher, model):
        raise TrainingError(
            f'teacher.layers, {name}: the classifier has the head of {own.title}, whose maps are those of the last '
            "features: leave out teacher.layers, or use teacher.method='cam' for the map of the method"
        )
    if method == 'cam' and not layer_names(teacher, model) and not (model.linear_head or own.own_map):
        raise TrainingError(
            f'teacher cam needs a head of average pooling and one linear layer; {model.model_args["backbone"]} has '
            'another head: choose gradcam, layercam or another teacher'
        )
    try:
        for layer in layer_names(teacher, model):
            named_layer(model.backbone, layer)
    except ValueError as e:
        raise TrainingError(f'teacher.layers, {name}: {e}') from e


def class_indices(name: str, model: FCAM, train_set: ImageDataset, hint: str = '') -> torch.Tensor:
    """Return the class index of the teacher (K,) for each label of the data, by the names of the classes.

    `hint` ends the message about a missing class.

    Raises:
        TrainingError: When the teacher lacks a class.
    """
    names = list(model.pretrained_cfg.get('label_names') or ())
    if not names:
        if model.num_classes < train_set.num_classes:
            raise TrainingError(
                f'the teacher {name} has {model.num_classes} classes, the data {train_set.num_classes}: choose one '
                'that was trained on these classes'
            )
        return torch.arange(train_set.num_classes)
    missing = [c for c in train_set.class_names.values() if c not in names]
    if missing:
        raise TrainingError(
            f'the teacher {name} lacks {len(missing)} of {len(train_set.class_names)} classes, the first '
            f'{plain(missing[0])}: choose one that was trained on these classes{hint}'
        )
    found = torch.zeros(train_set.num_classes, dtype=torch.int64)
    for label, own in train_set.class_names.items():
        found[label] = names.index(own)
    return found
