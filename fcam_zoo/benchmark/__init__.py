"""The WSOL benchmark: it scores maps of any library."""

from .box_metric import BoxMetric as BoxMetric
from .boxes import box_iou as box_iou
from .boxes import boxes_from_score_map as boxes_from_score_map
from .boxes import resize_boxes as resize_boxes
from .compare import Comparison as Comparison
from .compare import ComparisonRow as ComparisonRow
from .compare import compare as compare
from .descriptions import MetricDescription as MetricDescription
from .descriptions import describe as describe
from .evaluate import evaluate as evaluate
from .evaluate import evaluate_many as evaluate_many
from .html import write_html as write_html
from .object_metric import ObjectMetric as ObjectMetric
from .pixel_ap import PixelAP as PixelAP
from .report import Report as Report
from .report_folder import read_reports as read_reports
from .report_schema import Meta as Meta
from .sources import maps_of as maps_of
