"""Labels, boxes and masks for folders of images, in the formats that detectors and segmenters train from."""

from .cluster import ClusterOptions as ClusterOptions
from .export import check_export as check_export
from .export import export_labels as export_labels
from .formats import FORMATS as FORMATS
from .formats import SHEET as SHEET
from .formats import SHEET_IMAGES as SHEET_IMAGES
from .options import LabelOptions as LabelOptions
from .ray_data import map_batches as map_batches
from .ray_run import JobSummary as JobSummary
from .ray_run import label_on_ray as label_on_ray
from .run import Summary as Summary
from .run import label_images as label_images

__all__ = [
    'label_images',
    'LabelOptions',
    'Summary',
    'label_on_ray',
    'ClusterOptions',
    'JobSummary',
    'export_labels',
    'check_export',
    'map_batches',
    'FORMATS',
    'SHEET',
    'SHEET_IMAGES',
]
