"""What a fused block runs in the place of its forward, and when it may."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from l1bn.convert.call import CallPattern
from l1bn.convert.rewrite import rewrite_block
from l1bn.convert.source import rewrite_source
from l1bn.convert.watch import Watch
from l1bn.nn.fusable import is_watched

Forward = Callable[..., Any]


@dataclass
class Fusion:
    """A block's rewritten forward.

    Attributes:
        block: the block.
        texts: per fused layer its path in the block and what was fused.
    """

    block: nn.Module
    texts: dict[str, str]

    def forward_for(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any] | None:
        """This call of the rewritten forward, or ``None`` where the original has to run."""
        raise NotImplementedError

    def forced(self, training: bool) -> Forward | None:
        """The rewritten forward for a mode, whatever has changed since, or ``None``."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # Generated functions cannot be pickled: they are made again on first use.
        return {**self.__dict__, "made": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Fusion:
        # The functions take the block as an argument: the copy can use the same ones.
        copied = copy.copy(self)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        copied.__dict__["made"] = self.__dict__["made"]
        return copied


@dataclass
class TracedFusion(Fusion):
    """A forward rewritten from its trace, which took some things for granted.

    Attributes:
        pattern: how the block is called.
        inlined: paths of the submodules that the rewritten forward reaches into.
        watches: what must still hold; the block first, then each inlined submodule.
        made: rewritten forward by training mode, ``None`` until traced.
    """

    pattern: CallPattern
    inlined: frozenset[str]
    watches: list[Watch]
    made: dict[bool, Forward | None] | None = field(default=None, repr=False)

    def forward_for(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any] | None:
        """This call, where it has the pattern and everything watched is as it was."""
        tensors = self.pattern.tensors(args, kwargs)
        if tensors is None or not self._holds(block):
            return None
        if self.made is None:
            if torch.compiler.is_compiling():
                return None
            self.made = rewrite_block(self.block, self.pattern, self.inlined).functions
        function = self.made[block.training]
        return None if function is None else lambda: function(block, *tensors)

    def _holds(self, block: nn.Module) -> bool:
        if block is not self.block or _has_any_global_hook():
            return False
        training = block.training
        for watch in self.watches:
            if not watch.holds(training):
                return False
        return not any(is_watched(watch.module) for watch in self.watches[1:])

    def forced(self, training: bool) -> Forward | None:
        """The rewritten forward for a mode, called like the original."""
        function = None if self.made is None else self.made[training]
        if function is None:
            return None

        def forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
            tensors: list[Tensor] | None = self.pattern.tensors(args, kwargs)
            assert tensors is not None
            return function(block, *tensors)

        return forward


@dataclass
class SourceFusion(Fusion):
    """A forward rewritten in its source: true whatever the block and its parts become.

    Attributes:
        made: the rewritten forward, ``None`` until made.
    """

    made: Forward | None = field(default=None, repr=False)

    def forward_for(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Any] | None:
        """This call, unless every call of a module is watched."""
        if _has_any_global_hook():
            return None
        if self.made is None:
            if torch.compiler.is_compiling():
                return None
            self.made = rewrite_source(self.block)[0]
        function = self.made
        return lambda: function(block, *args, **kwargs)

    def forced(self, training: bool) -> Forward | None:
        """The rewritten forward, the same in both modes."""
        del training
        return self.made
