"""python -m nbflows: the command line."""

import sys

from nbflows.cli import main

sys.exit(main())
