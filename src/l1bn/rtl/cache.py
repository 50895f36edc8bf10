"""Steps cached by content: the same inputs give the stored result, so interrupted runs resume."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def default_folder() -> Path:
    """``$L1BN_RTL_CACHE``, or ``l1bn/rtl`` in the user's cache folder."""
    given = os.environ.get("L1BN_RTL_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "l1bn" / "rtl"


class Cache:
    """A folder of results, one file each, named by the hash of everything they depend on.

    Attributes:
        folder: Where results lie; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def text(self, step: str, inputs: list[str], compute: Callable[[], str]) -> tuple[str, bool]:
        """The stored text of a step, or compute and store it; and whether it was stored.

        The file appears at once and whole: an interrupted step leaves nothing behind.
        """
        if self.folder is None:
            return compute(), False
        digest = hashlib.sha256()
        for part in (step, *inputs):
            digest.update(f"{len(part)}:".encode())
            digest.update(part.encode())
        path = self.folder / f"{step}-{digest.hexdigest()[:32]}"
        if path.exists():
            return path.read_text(), True
        result = compute()
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=f".{step}-")
        with os.fdopen(handle, "w") as file:
            file.write(result)
        Path(name).rename(path)
        return result, False
