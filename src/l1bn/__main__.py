"""``python -m l1bn`` is the command line; so ``torchrun ... -m l1bn`` is, in several processes."""

from __future__ import annotations

import sys

from l1bn.cli import main

if __name__ == "__main__":
    sys.exit(main())
