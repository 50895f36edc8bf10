"""Where the C sources of the runtime are: in the package, or in a checkout."""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).parent / "csrc"
_CHECKOUT = Path(__file__).parents[3] / "csrc" / "device"


def sources() -> Path:
    """Return the folder of the runtime's sources.

    Raises:
        FileNotFoundError: If the installation is incomplete.
    """
    for folder in (_INSTALLED, _CHECKOUT):
        if (folder / "l1bn_device.h").is_file():
            return folder
    raise FileNotFoundError(f"{_INSTALLED}: expected the sources of the runtime; install l1bn anew")
