"""Draw the pictures of docs/silicon/unit.md: blocks and passes, as in a unit's datasheet.

    python -m benchmarks.rtl.pictures

writes them to docs/pictures, each named after the unit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from l1bn.rtl import drawings
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit import emit

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"


def main() -> None:
    config = UnitConfig()
    for file in drawings.write(config, emit.describe_interface(config), FOLDER).values():
        print(f"wrote {FOLDER / file}")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # none, but --help
    main()
