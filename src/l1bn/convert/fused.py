"""A block whose forward calls its normalization layers together with what follows them.

The block keeps its submodules, its parameters and their names. Only its class changes: to a
subclass of its own class whose ``forward`` is rewritten. Wherever the rewritten forward might
not be the same function as the original one, the original one runs.
"""

from __future__ import annotations

import copy
import copyreg
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from l1bn.convert.call import CallPattern
from l1bn.convert.norm_act import has_hooks
from l1bn.convert.rewrite import rewrite_block
from l1bn.convert.watch import FUSION, ORIGINAL, Watch, is_fused, original_class


@dataclass
class Fusion:
    """A block's rewritten forward, and when it may stand in for the original.

    Attributes:
        block: the block.
        pattern: how the block is called.
        inlined: paths of the submodules that the rewritten forward reaches into.
        watches: what must still hold; the block first, then each inlined submodule.
        texts: per fused layer its path in the block and what was fused.
        functions: rewritten forward by training mode, ``None`` until traced.
    """

    block: nn.Module
    pattern: CallPattern
    inlined: frozenset[str]
    watches: list[Watch]
    texts: dict[str, str]
    functions: dict[bool, Callable[..., Any] | None] | None = field(default=None, repr=False)

    def function_for(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Callable[..., Any] | None, list[Tensor]]:
        """The rewritten forward for this call with its arguments, or ``None``."""
        tensors = self.pattern.tensors(args, kwargs)
        if tensors is None or block is not self.block or _has_any_global_hook():
            return None, []
        training = block.training
        for watch in self.watches:
            if not watch.holds(training):
                return None, []
        for watch in self.watches[1:]:
            if has_hooks(watch.module):
                return None, []
        if self.functions is None:
            if torch.compiler.is_compiling():
                return None, []
            self.functions = rewrite_block(self.block, self.pattern, self.inlined).functions
        return self.functions[training], tensors

    def __getstate__(self) -> dict[str, Any]:
        # Generated functions cannot be pickled: they are traced again on first use.
        return {**self.__dict__, "functions": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Fusion:
        # The functions take the block as an argument: the copy can use the same ones.
        copied = copy.copy(self)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__getstate__(), memo), functions=self.functions)
        return copied


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
        if fusion is not None:
            function, tensors = fusion.function_for(self, args, kwargs)
            if function is not None:
                return function(self, *tensors)
        return original(self, *args, **kwargs)

    return type(
        cls.__name__,
        (FusedBlock, cls),
        {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "forward": forward,
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
