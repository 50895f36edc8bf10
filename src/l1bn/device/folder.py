"""Writes the folder that a device's project takes over: C files, a Makefile, a description."""

from __future__ import annotations

import shutil
from pathlib import Path

from l1bn.device import emit
from l1bn.device.build import Build
from l1bn.device.runtime import sources


def write(build: Build, folder: str | Path, name: str = "network") -> Path:
    """Write a network and the runtime that it needs.

    Args:
        build: What ``l1bn.device.build`` returned.
        folder: Where to write; it is made if it is missing.
        name: Name of the files and prefix of the functions: a C identifier.

    Returns:
        The folder.

    Raises:
        ValueError: If the name is no C identifier.
    """
    if not name.isidentifier() or not name.isascii():
        raise ValueError(f"expected a C identifier as a name, got {name!r}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    runtime = sources()
    for path in sorted([*runtime.glob("*.c"), *runtime.glob("*.h")]):
        shutil.copyfile(path, target / path.name)
    (target / f"{name}.h").write_text(emit.header(build, name))
    (target / f"{name}.c").write_text(emit.source(build, name))
    return target
