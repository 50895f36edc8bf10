"""How a block is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

_NOTHING = object()


@dataclass(frozen=True)
class CallPattern:
    """How a block is called: which arguments are tensors, and what the others are.

    Attributes:
        args: per positional argument ``Tensor``, or the constant.
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


def _kind(arg: Any) -> Any:
    if isinstance(arg, Tensor):
        return Tensor
    if arg is None or isinstance(arg, (bool, int, float, str)):
        return arg
    raise ValueError(f"it is called with an argument of type {type(arg).__name__}")


def _fits(kind: Any, arg: Any, found: list[Tensor]) -> bool:
    if kind is Tensor:
        if not isinstance(arg, Tensor):
            return False
        found.append(arg)
        return True
    return type(arg) is type(kind) and arg == kind
