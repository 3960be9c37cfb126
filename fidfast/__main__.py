"""``python -m fidfast``: the same as the command ``fidfast``."""

from __future__ import annotations

import sys

from fidfast.cli import main

if __name__ == "__main__":
    sys.exit(main())
