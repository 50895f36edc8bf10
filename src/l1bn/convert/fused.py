"""A block whose forward calls its normalization layers together with what follows them.

The block keeps its submodules, its parameters and their names. Only its class changes: to a
subclass of its own class whose ``forward`` is rewritten. Wherever the rewritten forward might
not be the same function as the original one, the original one runs.
"""

from __future__ import annotations

import copyreg
import functools
from typing import Any

from torch import nn

from l1bn.convert.fusion import Fusion
from l1bn.convert.norm_act import norm_act
from l1bn.convert.watch import FUSION, NORM_ACT, ORIGINAL, is_fused, original_class


class FusedBlock:
    """Mixin of the classes made by :func:`fused_class`."""

    def extra_repr(self) -> str:
        """The block's own text, and what is fused in it."""
        own = super().extra_repr()  # type: ignore[misc]
        fusion: Fusion | None = self.__dict__.get(FUSION)
        fused = "" if fusion is None else "; ".join(f"fused: {t}" for t in fusion.texts.values())
        return ", ".join(part for part in (own, fused) if part)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class has no importable name: say how to make it from the original one.
        reduced: Any = super().__reduce_ex__(max(protocol, 2))
        if reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
            return reduced
        return _new_fused, (getattr(type(self), ORIGINAL), *reduced[1][1:]), *reduced[2:]


def _new_fused(cls: Any, *args: Any) -> nn.Module:
    fused = fused_class(cls)
    return fused.__new__(fused, *args)


@functools.cache
def fused_class(cls: Any) -> type[nn.Module]:
    """Subclass of a block's class that runs the block's :class:`Fusion` where it may."""
    original = cls.forward

    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        fusion: Fusion | None = self.__dict__.get(FUSION)
        fused = None if fusion is None else fusion.forward_for(self, args, kwargs)
        return original(self, *args, **kwargs) if fused is None else fused()

    return type(
        cls.__name__,
        (FusedBlock, cls),
        {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "forward": forward,
            NORM_ACT: staticmethod(norm_act),
            ORIGINAL: cls,
        },
    )


def install(block: nn.Module, fusion: Fusion) -> None:
    """Let a block run its fusion."""
    block.__dict__[FUSION] = fusion
    if not is_fused(block):
        cls: Any = type(block)
        block.__class__ = fused_class(cls)


def remove(block: nn.Module) -> dict[str, str]:
    """Give a block its own class back. Returns what was fused, by path in the block."""
    block.__class__ = original_class(block)
    fusion: Fusion = block.__dict__.pop(FUSION)
    return fusion.texts
