"""`python -m fcam_zoo` is `fcam-zoo`."""

import sys

from .cli import main

sys.exit(main())
