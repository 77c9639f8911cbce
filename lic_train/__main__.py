"""``python -m lic_train`` is the same as ``lic``."""

import sys

from lic_train.cli import main

sys.exit(main())
