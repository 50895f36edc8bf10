"""How a block is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_NOTHING = object()
_CONSTANTS = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class CallPattern:
    """Which arguments of a call are tensors, and what the others are.

    Attributes:
        args: per positional argument ``Tensor``, a constant, or a list or tuple of such.
        kwargs: the same per keyword.
    """

    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallPattern:
        """Pattern of one call.

        Raises:
            ValueError: an argument is neither a tensor nor a plain constant.
        """
        return cls(
            tuple(_kind(arg) for arg in args),
            tuple((name, _kind(arg)) for name, arg in kwargs.items()),
        )

    def tensors(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
        """The tensors of a call in order, or ``None`` where the call has another pattern."""
        if len(args) != len(self.args) or len(kwargs) != len(self.kwargs):
            return None
        found: list[Tensor] = []
        for kind, arg in zip(self.args, args, strict=True):
            if not _fits(kind, arg, found):
                return None
        for name, kind in self.kwargs:
            if not _fits(kind, kwargs.get(name, _NOTHING), found):
                return None
        return found

    def fill(self, stand_in: Callable[[], Any]) -> tuple[list[Any], dict[str, Any]]:
        """Arguments of this pattern, with ``stand_in()`` in the place of each tensor in order."""
        args = [_fill(kind, stand_in) for kind in self.args]
        return args, {name: _fill(kind, stand_in) for name, kind in self.kwargs}


def _kind(arg: Any) -> Any:
    if isinstance(arg, Tensor):
        return Tensor
    if type(arg) in (list, tuple):
        return type(arg)(_kind(item) for item in arg)
    if type(arg) in _CONSTANTS:
        return arg
    raise ValueError(f"it is called with an argument of type {type(arg).__name__}")


def _fits(kind: Any, arg: Any, found: list[Tensor]) -> bool:
    if kind is Tensor:
        if not isinstance(arg, Tensor):
            return False
        found.append(arg)
        return True
    if type(arg) is not type(kind):
        return False
    if isinstance(kind, (list, tuple)):
        return len(arg) == len(kind) and all(
            _fits(inner, item, found) for inner, item in zip(kind, arg, strict=True)
        )
    return arg == kind


def _fill(kind: Any, stand_in: Callable[[], Any]) -> Any:
    if kind is Tensor:
        return stand_in()
    if isinstance(kind, (list, tuple)):
        return type(kind)(_fill(inner, stand_in) for inner in kind)
    return kind
