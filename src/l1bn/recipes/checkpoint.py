"""Checkpoints: written as one step, read without running code, refused when they do not fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from l1bn.errors import UserError

__all__ = ["load_checkpoint", "load_weights", "save_checkpoint", "write_text"]

_FORMATS = {"train": "l1bn-classification-1", "gan": "l1bn-gan-1"}
"""Formats by the command that writes them."""


def save_checkpoint(path: Path, content: dict[str, Any], command: str = "train") -> None:
    """Write a checkpoint; a reader sees the old file or the new one, never a part.

    Args:
        path: Where to write.
        content: Tensors, numbers, strings, and lists and dicts of these.
        command: What made it, ``"train"`` or ``"gan"``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save({"format": _FORMATS[command], **content}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, command: str = "train") -> dict[str, Any]:
    """Read a checkpoint that `save_checkpoint` wrote.

    Args:
        path: The file.
        command: What must have made it, ``"train"`` or ``"gan"``.

    Raises:
        UserError: If the file is missing, damaged or something else.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}); it was left as it is"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMATS[command]:
        raise UserError(
            f'{path} is no checkpoint of `l1bn {command}` (format "{_FORMATS[command]}")'
        )
    return content


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Load the weights of a checkpoint, of either norm, into `model`.

    Raises:
        UserError: If the checkpoint holds another model.
    """
    content = load_checkpoint(path)
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        saved = content["config"]
        raise UserError(
            f"the weights in {path} do not fit: they are of {saved['model']} with width "
            f"{saved['width']} on {saved['data']}"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file as one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
