"""Boxes of the contours of a score map at many levels at once."""

from ._component_tree import histogram as histogram
from ._level_boxes import level_boxes as level_boxes
