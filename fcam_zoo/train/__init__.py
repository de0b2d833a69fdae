"""The two stages of F-CAM training: the classifier, then the decoder on the frozen classifier."""

from .config import ClassifierConfig as ClassifierConfig
from .config import DecoderConfig as DecoderConfig
from .config import TrainConfig as TrainConfig
from .config import recipe_names as recipe_names
from .monitor import summary_table as summary_table
from .plan import plan as plan
from .plan import plan_text as plan_text
from .run import train as train
from .sweep import sweep as sweep
