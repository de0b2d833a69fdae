"""Training in two stages: the classifier, then the decoder on the frozen classifier."""

from .._catalog import TEACHER_METHODS as TEACHER_METHODS
from .._catalog import recipe_names as recipe_names
from .config import TrainConfig as TrainConfig
from .plan import plan as plan
from .records import summary_table as summary_table
from .run import train as train
from .stage_config import ClassifierConfig as ClassifierConfig
from .stage_config import DecoderConfig as DecoderConfig
from .sweep import sweep as sweep
from .teacher_config import TeacherConfig as TeacherConfig
