from .box_metric import BoxMetric
from .boxes import box_iou, boxes_from_score_map, resize_boxes
from .pixel_ap import PixelAP
