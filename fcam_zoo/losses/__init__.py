"""The pixel-alignment loss of F-CAM (WACV 2022, Eq. 3) and its terms."""

from .background_activation import background_activation as background_activation
from .crf import crf_loss as crf_loss
from .partial_cross_entropy import partial_cross_entropy as partial_cross_entropy
from .pixel_alignment import PixelAlignmentLoss as PixelAlignmentLoss
from .size import log_barrier as log_barrier
from .size import size_loss as size_loss

__all__ = [
    'PixelAlignmentLoss',
    'background_activation',
    'crf_loss',
    'log_barrier',
    'partial_cross_entropy',
    'size_loss',
]
