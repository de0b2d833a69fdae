"""The two stages of F-CAM training: the classifier, then the decoder on the frozen classifier."""

from .config import ClassifierConfig as ClassifierConfig
from .config import DecoderConfig as DecoderConfig
from .config import TrainConfig as TrainConfig
from .config import recipe_names as recipe_names
from .run import train as train
