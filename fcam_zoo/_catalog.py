"""Names and defaults in help texts. Imports nothing, so that `fcam-zoo COMMAND --help` does not wait for torch."""

from __future__ import annotations

from pathlib import Path

CAM_METHODS = ('cam', 'gradcam', 'gradcampp', 'smoothgradcampp', 'xgradcam', 'layercam')
# Training methods of the classifier (`wsol.METHODS`).
WSOL_METHODS = ('has', 'cutmix', 'adl', 'acol', 'spg', 'nl_ccam', 'ts_cam', 'meil', 'i2c', 'danet', 'spol', 'cstn')
# The maps of a teacher: a CAM method, or the maps of a finished F-CAM.
TEACHER_METHODS = (*CAM_METHODS, 'fcam')
# Variants of Grad-CAM++ and Smooth Grad-CAM++ (see `cams.methods`).
VARIANTS = ('published', 'original', 'reference')
ANNOTATION_FORMATS = ('overlays', 'coco', 'voc', 'yolo', 'csv', 'masks')
RECIPES = Path(__file__).parent / 'recipes'
RELEASED_RECIPES = RECIPES / 'released'

FINE_TUNE = 'fine_tune'
"""Packaged recipe of a training that starts from an F-CAM: the default of `fcam-zoo train`."""

GENERAL_MODEL = 'fcam_mobilenetv1_075.layercam_caltech101'
"""Released model for photographs of any object: the default of the demo and the viewer, and the start of a training."""

MIN_AREA = 0.01
"""Share of the image below which a further region is treated as noise."""

SHEET = 'contact_sheet.jpg'
"""Small copies of the overlays in one picture. Overlays are .png files, so no image has this name."""

SHEET_IMAGES = 60
"""Largest number of images in the contact sheet."""

OPSET = 18
"""Version of the ONNX operators: the oldest that torch's exporter writes, which most runtimes support."""


def recipe_names() -> list[str]:
    """List the packaged recipes: `FINE_TUNE` and the grid of the F-CAM paper."""
    return sorted(file.name.removesuffix('.yaml') for file in RECIPES.iterdir() if file.name.endswith('.yaml'))
