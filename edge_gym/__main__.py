"""``python -m edge_gym``."""

import sys

from edge_gym.cli import main

sys.exit(main())
