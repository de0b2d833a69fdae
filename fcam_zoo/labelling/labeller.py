"""From the network's output for an image to the objects in its pixels."""

from __future__ import annotations

import numpy as np

from ..data.images import as_stored
from ..localization import Postprocessor, resize_map
from .formats import LabelledImage
from .inputs import Inputs
from .loading import LoadedImage
from .record import ImageRecord, object_records


class Labeller:
    """Localizes objects at full resolution and chooses their class.

    Args:
        inputs: All images.
        postprocess: Threshold, class names and choice of objects.
        labels: 'predicted' or 'folder', as in `LabelOptions`.

    Attributes:
        classes: Class names of the run.

    Raises:
        ValueError: When an image is in no class folder, or annotation files cannot hold a class name.
    """

    def __init__(self, inputs: Inputs, postprocess: Postprocessor, labels: str) -> None:
        self.inputs, self.postprocess, self.by_folder = inputs, postprocess, labels == 'folder'
        self.classes = _class_folders(inputs) if self.by_folder else postprocess.class_names
        for name in self.classes:
            if not name.isprintable() or name != name.strip() or not name:
                raise ValueError(f'the class name {name!r} cannot be written to annotation files: rename it')

    def label(self, loaded: LoadedImage, score_map: np.ndarray, probs: np.ndarray) -> LabelledImage:
        """Label an image.

        Args:
            loaded: The image.
            score_map: F-CAM float32 (s,s) in [0,1] of the upright image.
            probs: Class probabilities (K,).
        """
        rotated = loaded.orientation >= 5
        full = resize_map(score_map, loaded.size[::-1] if rotated else loaded.size)
        stored = upright = self.postprocess(full, probs)
        if loaded.orientation != 1:
            stored = self.postprocess(as_stored(full, loaded.orientation), probs)
        image_id = self.inputs.ids[loaded.index]
        certainty = 1.0 if self.by_folder else stored.score
        record = ImageRecord(
            image=image_id,
            label=self.classes.index(image_id.split('/')[0]) if self.by_folder else stored.class_index,
            predicted=stored.label,
            predicted_index=stored.class_index,
            probability=round(stored.score, 6),
            size=stored.size,
            objects=object_records(stored, certainty),
            upright_size=upright.size,
            upright_objects=object_records(upright, certainty),
        )
        return LabelledImage(record, stored, upright)


def _class_folders(inputs: Inputs) -> tuple[str, ...]:
    for image_id in inputs.ids:
        if '/' not in image_id:
            raise ValueError(f"labels='folder': {image_id} is not in a class folder of {inputs.root}; move it into one")
    return tuple(sorted({image_id.split('/')[0] for image_id in inputs.ids}))
