"""`python -m agents` is the `agents` command."""

import sys

from agents.cli import main

sys.exit(main())
