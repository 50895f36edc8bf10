"""Files written as one step: a reader sees the old content or the new, never a part of it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from pathlib import Path

from l1bn.errors import UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as one step, down to the disk.

    Raises:
        UserError: If it cannot be written; an old file stays, and nothing is left beside it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error, len(content)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file as one step."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: object, indent: int | None = None) -> None:
    """Write JSON as one step; a number that JSON does not have, as NaN, becomes null."""
    text = json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def cannot_write(path: Path, error: OSError, size: int | None = None) -> UserError:
    """Return the one line that says what could not be written, where and why."""
    text = f"cannot write {path}: {error.strerror or error}"
    if size is not None:
        text += f"; {_megabytes(size)} needed"
        with contextlib.suppress(OSError):
            text += f", {_megabytes(shutil.disk_usage(_existing(path)).free)} free"
    return UserError(f"{text}; make room or choose another folder with --out")


def _existing(path: Path) -> Path:
    return next((p for p in path.absolute().parents if p.is_dir()), Path("/"))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, (list, tuple)) else value
