"""Checkpoints: written as one step, read without running code, refused when they do not fit.

A checkpoint is a zip archive whose every member carries a checksum. ``torch.load`` does not look at
them, so that a flipped bit would be read as another number; here they are compared first.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, TypeGuard

import torch

from l1bn.errors import UserError
from l1bn.recipes.files.saved import check_entries, check_tensors
from l1bn.recipes.files.writing import write_bytes

CHECKPOINT = "last.pt"
"""Name of a run's checkpoint in its folder."""
RESULT = "result.json"
"""Name of a finished run's result in its folder."""
_FORMATS = {"train": "l1bn-classification-1", "gan": "l1bn-gan-1"}
"""Formats by the command that writes them."""
_ENTRIES: dict[str, dict[str, type]] = {
    "train": {"config": dict, "shape": dict, "model": dict, "optimizer": dict, "state": dict},
    "gan": {
        "config": dict,
        "shape": dict,
        "generator": dict,
        "critic": dict,
        "optimizers": dict,
        "state": dict,
    },
}
"""What a checkpoint must hold."""


class Checkpoint(TypedDict, total=False):
    """What a checkpoint holds, of either command; ``load_checkpoint`` looks at the entries."""

    format: str
    digest: str
    config: dict[str, object]
    shape: dict[str, Any]
    data: object
    moments: list[list[float]]
    model: dict[str, torch.Tensor]
    optimizer: dict[str, object]
    generator: dict[str, torch.Tensor]
    critic: dict[str, torch.Tensor]
    optimizers: dict[str, dict[str, object]]
    state: dict[str, object]
    curves: object


def save_checkpoint(path: Path, content: dict[str, Any], command: str = "train") -> None:
    """Write a checkpoint; a reader sees the old file or the new one, never a part.

    Args:
        path: Where to write.
        content: Tensors, numbers, strings, and lists and dicts of these.
        command: What made it, ``"train"`` or ``"gan"``.

    Raises:
        UserError: If it cannot be written; an old checkpoint stays.
    """
    buffer = io.BytesIO()
    whole = {"format": _FORMATS[command], **content, "digest": _digest(content["config"])}
    torch.save(whole, buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path, command: str = "train") -> Checkpoint:
    """Read a checkpoint that ``save_checkpoint`` wrote.

    Args:
        path: The file.
        command: What must have made it, ``"train"`` or ``"gan"``.

    Raises:
        UserError: If the file is missing, damaged or something else, or holds a number that is not
            finite, or a tensor that has no memory of its own.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    content = _read(path)
    if not _is_of(content, command):
        raise UserError(
            f'{path} is no checkpoint of `l1bn {command}` (format "{_FORMATS[command]}")'
        )
    check_entries(path, content, _ENTRIES[command])
    if content.get("digest", _digest(content["config"])) != _digest(content["config"]):
        raise UserError(
            f"{path}: expected the config that the run was made with, got one that was edited; "
            "start the run anew"
        )
    for entry, value in _numbers(content, ""):
        if isinstance(value, torch.Tensor) and not (
            value.layout is torch.strided and value.device.type == "cpu"
        ):
            raise UserError(
                f"{path}: expected {entry} to be a dense tensor on the CPU, got {value.layout} on "
                f"{value.device}"
            )
        finite = value.isfinite().all() if isinstance(value, torch.Tensor) else math.isfinite(value)
        if not finite:
            raise UserError(
                f"{path}: expected finite numbers in {entry}, got inf or NaN; start the run anew"
            )
    return content


def _is_of(content: object, command: str) -> TypeGuard[Checkpoint]:
    return isinstance(content, dict) and content.get("format") == _FORMATS[command]


def _digest(config: Mapping[str, object]) -> str:
    """Of a run's options: the weights of one seed are not those of another."""
    return hashlib.sha256(repr(sorted(config.items())).encode()).hexdigest()


def _read(path: Path) -> object:
    try:
        data = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {broken}")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}); it was left as it is"
        ) from error


def _numbers(value: object, name: str) -> Iterator[tuple[str, torch.Tensor | float]]:
    """Yield every tensor and float with its place."""
    if isinstance(value, (torch.Tensor, float)):
        yield name, value
    elif isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _numbers(item, f"{name}.{key}" if name else str(key))


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Load the weights of a checkpoint, of either norm, into ``model``.

    Raises:
        UserError: If the checkpoint holds another model.
    """
    content = load_checkpoint(path)
    try:
        check_tensors(path, "model", content["model"], model.state_dict())
    except UserError as error:
        saved = content["config"]
        raise UserError(
            f"the weights in {path} do not fit: they are of {saved.get('model')} with width "
            f"{saved.get('width')} on {saved.get('data')}"
        ) from error
    model.load_state_dict(content["model"])
