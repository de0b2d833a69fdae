"""F-CAM models: any timm network with a U-Net decoder, and the zoo of names."""

from . import mobilenetv1 as mobilenetv1
from . import wsol_nets as wsol_nets
from .config import FCAMConfig as FCAMConfig
from .fcam import FCAM as FCAM
from .fcam import FCAMOutput as FCAMOutput
from .names import list_models as list_models
from .wrapping import wrap as wrap
from .zoo import create_model as create_model
