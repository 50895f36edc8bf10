"""Where the C sources of the runtime are: in the package, or in a checkout."""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).parents[1] / "csrc"
_CHECKOUT = Path(__file__).parents[4] / "csrc" / "device"
_ROOMS = ("", "arithmetic", "steps")


def sources() -> Path:
    """Return the folder of the runtime's sources.

    Raises:
        FileNotFoundError: If the installation is incomplete.
    """
    for folder in (_INSTALLED, _CHECKOUT):
        if (folder / "l1bn_device.h").is_file():
            return folder
    raise FileNotFoundError(f"{_INSTALLED}: expected the sources of the runtime; install l1bn anew")


def files() -> list[Path]:
    """Return what a network is compiled with; no two have the same name.

    They include each other by name alone, for a project that takes them over keeps them in one
    folder.
    """
    folders = [sources() / room for room in _ROOMS]
    return sorted(f for folder in folders for f in folder.glob("*.[ch]"))
