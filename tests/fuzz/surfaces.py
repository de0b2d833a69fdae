"""All surfaces by name."""

from __future__ import annotations

from .argument_surfaces import Arguments
from .data_surfaces import Coco, Csv, ImageFiles, Maps, Objects, Voc, Wsol, WsolMasks
from .model_surfaces import Config, Index, Weights
from .run_surfaces import Journal, Recipe, Reports, Settings, TrainingState
from .surface import Surface

SURFACES: dict[str, type[Surface]] = {
    'config': Config,
    'weights': Weights,
    'index': Index,
    'metadata-wsol': Wsol,
    'metadata-masks': WsolMasks,
    'metadata-coco': Coco,
    'metadata-voc': Voc,
    'metadata-csv': Csv,
    'recipe': Recipe,
    'settings': Settings,
    'maps': Maps,
    'images': ImageFiles,
    'objects': Objects,
    'journal': Journal,
    'reports': Reports,
    'training-state': TrainingState,
    'arguments': Arguments,
}
