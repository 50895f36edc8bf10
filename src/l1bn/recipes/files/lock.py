"""One process at a time in a run's folder."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from l1bn.errors import UserError
from l1bn.recipes.files.writing import cannot_write
from l1bn.recipes.machine.processes import Processes

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"
"""Name of the file that is there, and locked, while a run has the folder."""


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Make the folder if need be, and keep other processes out of it within the block.

    The lock is the system's own on an open file, so that a killed process leaves none behind.

    Raises:
        UserError: If another process has the folder, or if nothing can be written there.
    """
    made = _make(folder)
    path = folder / LOCK
    try:
        file = _lock(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is locked: nobody else holds this file
        os.close(file)
        for empty in made:
            with contextlib.suppress(OSError):
                empty.rmdir()  # only if the run left nothing


@contextmanager
def shared_folder(folder: Path, processes: Processes) -> Iterator[None]:
    """Let the first of several processes own the folder, for all of them.

    Raises:
        UserError: As ``own_folder``, in every process.
    """
    with contextlib.ExitStack() as stack:
        processes.from_first(lambda: stack.enter_context(own_folder(folder)))
        yield


def _make(folder: Path) -> list[Path]:
    """Make the folder; return what was made, innermost first."""
    made = []
    for path in (folder, *folder.parents):
        if path.exists():
            if not path.is_dir():
                raise UserError(f"expected --out to be a folder, but {path} is a file")
            break
        made.append(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return made


def _lock(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            current = path.exists() and os.path.samestat(os.fstat(file), path.stat())
        except BlockingIOError:
            owner = os.read(file, 1000).decode(errors="replace").strip()
            os.close(file)
            raise UserError(
                f"{path.parent} is in use by {owner or 'another process'}; wait for its end, stop "
                "it, or choose another folder with --out"
            ) from None
        except OSError:
            os.close(file)
            raise
        if current:
            break
        os.close(file)  # its owner removed it in between
    os.ftruncate(file, 0)
    command = " ".join(sys.argv[1:3])
    os.write(file, f"process {os.getpid()} ({command})\n".encode())
    return file
