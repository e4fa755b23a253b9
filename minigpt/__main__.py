"""`python -m minigpt` is `minigpt`."""

import sys

from minigpt.cli import main

sys.exit(main())
