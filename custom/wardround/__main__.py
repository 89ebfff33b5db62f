"""`python -m wardround`: the command line, where the script `wardround` is not on the path."""

from __future__ import annotations

import sys

from wardround.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
