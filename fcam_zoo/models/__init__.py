from . import mobilenetv1 as _mobilenetv1
from .fcam import FCAM as FCAM
from .fcam import FCAMOutput as FCAMOutput
from .fcam import wrap as wrap
