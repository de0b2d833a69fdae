"""fcam_zoo: full-resolution class activation maps, a timm-style zoo of weakly-supervised localizers."""

from . import benchmark as benchmark
from . import cams as cams
from . import export as export
from . import hub as hub
from . import losses as losses
from . import sampling as sampling
from ._version import __version__ as __version__
from .errors import FcamZooError as FcamZooError
from .labelling import LabelOptions as LabelOptions
from .labelling import label_images as label_images
from .localization import Localization as Localization
from .localization import localize as localize
from .models import FCAM as FCAM
from .models import FCAMOutput as FCAMOutput
from .models import create_model as create_model
from .models import list_models as list_models
from .models import wrap as wrap
