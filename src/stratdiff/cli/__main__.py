"""`python -m stratdiff.cli`."""

import sys

from stratdiff.cli import main

sys.exit(main())
