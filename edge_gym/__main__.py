"""``python -m edge_gym``."""

import sys

from edge_gym.cli.main import main

sys.exit(main())
