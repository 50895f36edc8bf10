"""Checks of what was read from a file, before any of it is used."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast

import torch

from l1bn.errors import UserError

_Kind = TypeVar("_Kind")
_NEVER_NEGATIVE = ("running_var", "exp_avg_sq", "num_batches_tracked")


def check_entries(path: Path, content: Mapping[str, object], expected: Mapping[str, type]) -> None:
    """Refuse content without an entry, or with one of another type.

    Raises:
        UserError: It names the entry.
    """
    for name, kind in expected.items():
        if name not in content:
            raise UserError(f'{path}: expected an entry "{name}", got none; start the run anew')
        if not isinstance(content[name], kind):
            raise _wrong(path, name, f"a {kind.__name__}", type(content[name]).__name__)


def check_tensors(
    path: Path, name: str, saved: Mapping[str, object], expected: Mapping[str, object]
) -> None:
    """Refuse a state dict with other keys, types or shapes than the network's own.

    Args:
        path: File that it was read from.
        name: Its entry there.
        saved: What was read.
        expected: What the network gives.

    Raises:
        UserError: It names the entry.
    """
    if missing := [k for k in expected if k not in saved]:
        raise _wrong(path, f"{name}.{missing[0]}", "a tensor", "none")
    if unknown := [k for k in saved if k not in expected]:
        raise _wrong(path, f"{name}.{unknown[0]}", "no such entry", "one")
    for key, own in expected.items():
        if isinstance(own, torch.Tensor):
            _check_tensor(path, f"{name}.{key}", saved[key], own.shape, own.dtype)
        elif type(saved[key]) is not type(own):
            raise _wrong(path, f"{name}.{key}", type(own).__name__, type(saved[key]).__name__)


def _check_tensor(
    path: Path, name: str, value: object, shape: torch.Size, dtype: torch.dtype | None
) -> None:
    expected = f"a tensor of {tuple(shape)}" + (f" and {dtype}" if dtype else "")
    if not isinstance(value, torch.Tensor):
        raise _wrong(path, name, expected, type(value).__name__)
    if value.shape != shape or (dtype is not None and value.dtype != dtype):
        raise _wrong(path, name, expected, f"{tuple(value.shape)} and {value.dtype}")
    if name.endswith(_NEVER_NEGATIVE) and value.numel() and value.min() < 0:
        raise _wrong(path, name, "nothing below 0", f"{float(value.min()):g}")


def check_optimizer(
    path: Path, name: str, saved: Mapping[str, Any], optimizer: torch.optim.Optimizer, steps: int
) -> dict[str, object]:
    """Check what an optimizer remembers of its parameters.

    Args:
        path: File that it was read from.
        name: Its entry there.
        saved: What was read.
        optimizer: The optimizer that will take it.
        steps: Steps that the run has taken.

    Returns:
        A state for ``Optimizer.load_state_dict``, whose rates are the optimizer's own.

    Raises:
        UserError: It names the entry.
    """
    check_entries(path, saved, {"state": dict, "param_groups": list})
    groups = optimizer.state_dict()["param_groups"]
    places = [p for group in groups for p in group["params"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = saved["state"]
    if sorted(state) != (sorted(places) if steps else []):
        raise _wrong(
            path, f"{name}.state", f"{len(places) if steps else 0} entries", str(len(state))
        )
    found: dict[Any, dict[str, Any]] = {}
    for place, parameter in zip(places, parameters, strict=True):
        if place in state:
            found[place] = {}
        for key, value in state.get(place, {}).items():
            entry = f"{name}.state.{place}.{key}"
            if key not in ("momentum_buffer", "step", "exp_avg", "exp_avg_sq"):
                raise _wrong(path, entry, "no such entry", "one")
            if value is None and key == "momentum_buffer":
                found[place][key] = None
                continue
            shape = torch.Size() if key == "step" else parameter.shape
            _check_tensor(path, entry, value, shape, torch.float32)
            # Fused steps take the parameter's own strides for granted.
            found[place][key] = (
                value if key == "step" else torch.empty_like(parameter, device="cpu").copy_(value)
            )
    return {"state": found, "param_groups": groups}


def check_fields(path: Path, name: str, saved: Mapping[str, object], kind: type) -> None:
    """Refuse values that a dataclass cannot be made of: other names, types, inf or NaN.

    Raises:
        UserError: It names the entry.
    """
    hints = typing.get_type_hints(kind)
    known = [f for f in dataclasses.fields(kind) if f.init]
    if unknown := [k for k in saved if k not in {f.name for f in known}]:
        raise UserError(
            f"{path}: unknown entry {name}.{unknown[0]}; it may be of a newer version of l1bn"
        )
    for field in known:
        needed = field.default is field.default_factory is dataclasses.MISSING
        if field.name not in saved:
            if needed:
                raise _wrong(path, f"{name}.{field.name}", "a value", "none")
            continue
        value = saved[field.name]
        if not _fits(value, hints[field.name]):
            hint = str(getattr(field, "type", ""))
            raise _wrong(path, f"{name}.{field.name}", hint, repr(value))


def fields_of(path: Path, name: str, saved: Mapping[str, object], kind: type[_Kind]) -> _Kind:
    """Return the dataclass that was saved.

    Raises:
        UserError: If it cannot be made of these values; it names the entry.
    """
    check_fields(path, name, saved, kind)
    return kind(**saved)


def _fits(value: object, hint: object) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (Union, types.UnionType):
        return any(_fits(value, a) for a in arguments)
    if origin in (tuple, list):
        return isinstance(value, (tuple, list)) and all(_fits(v, arguments[0]) for v in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(cast(float, value))
    if hint is Path:
        return isinstance(value, (str, Path))
    return type(value) is hint


def _wrong(path: Path, entry: str, expected: str, got: str) -> UserError:
    return UserError(f"{path}: expected {entry} to be {expected}, got {got}; it cannot be used")
