"""A block whose forward calls its normalization layers together with what follows them.

The block keeps its submodules, its parameters and their names. Only its class changes: to a
subclass of its own class whose ``forward`` is rewritten. Wherever the rewritten forward might
not be the same function as the original one, the original one runs.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from l1bn.convert.call import CallPattern
from l1bn.functional import Activation
from l1bn.nn import L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d, L1BatchNormAct2d
from l1bn.nn.batchnorm import _L1BatchNorm

#: Name in a fused block's ``__dict__`` of its :class:`Fusion`.
FUSION = "_l1bn_fusion"
#: Attribute that only the classes made by :func:`fused_class` have: the original class.
ORIGINAL = "_l1bn_original_class"

_PLAIN = (L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d)
_ACTIVATIONS: dict[type[nn.Module], Activation] = {nn.ReLU: "relu", nn.ReLU6: "relu6"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "relu6": F.relu6}
_NOTHING = object()


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody watches calls of the module, so that it must really be called."""
    state = module.__dict__
    # Some libraries put their hooks into a forward of the instance.
    return "forward" in state or any(state[name] for name in _HOOKS)


def is_fusable_norm(module: nn.Module | None) -> bool:
    """Whether an activation can move into this layer."""
    if type(module) in _PLAIN:
        return True
    return type(module) is L1BatchNormAct2d and all(
        type(part) is nn.Identity and not has_hooks(part) for part in (module.drop, module.act)
    )


def activation_of(act: nn.Module | str | None) -> Activation | None:
    """Name of an activation that a layer can compute, ``None`` for any other."""
    if isinstance(act, str):
        return act  # type: ignore[return-value]
    return None if act is None or has_hooks(act) else _ACTIVATIONS.get(type(act))


def norm_act(
    norm: _L1BatchNorm, act: nn.Module | str, x: Tensor, residual: Tensor | None = None
) -> Tensor:
    """Compute ``act(norm(x) + residual)``, in one call where that is the same function.

    Args:
        norm: normalization layer.
        act: activation layer, or ``"relu"`` or ``"relu6"``.
        x: the layer's input.
        residual: what the model adds before the activation.

    Shape:
        - x, output: :math:`(N, C, *)`
        - residual: anything that broadcasts with x; fused only where it is like x
    """
    activation = activation_of(act)
    if (
        activation is not None
        and is_fusable_norm(norm)
        and not has_hooks(norm)
        and (residual is None or _alike(residual, x))
    ):
        return norm._normalize(x, activation, residual)
    y = norm(x)
    if residual is not None:
        y = y + residual
    return _FUNCTIONS[act](y) if isinstance(act, str) else act(y)


def _alike(residual: Tensor, x: Tensor) -> bool:
    return residual.shape == x.shape and residual.dtype == x.dtype and residual.device == x.device


class Watch:
    """What a rewritten forward took for granted about one module when it was traced."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.children = list(module._modules.values())
        self.attributes = own_attributes(module)

    def holds(self, training: bool) -> bool:
        """Whether all of it is still so."""
        module, state = self.module, self.module.__dict__
        if state["training"] is not training or "forward" in state:
            return False
        if list(module._modules.values()) != self.children:
            return False
        return all(state.get(name, _NOTHING) is value for name, value in self.attributes.items())


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """A module's attributes that neither ``nn.Module`` nor this package gave it."""
    return {k: v for k, v in module.__dict__.items() if k not in _MODULE_STATE}


_MODULE_STATE = frozenset(nn.Module().__dict__) | {FUSION, "_is_hf_initialized"}


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
            self._trace()
            assert self.functions is not None
        return self.functions[training], tensors

    def _trace(self) -> None:
        """Trace again, after the block was unpickled."""
        from l1bn.convert.rewrite import rewrite_block

        self.functions = rewrite_block(self.block, self.pattern, self.inlined).functions

    def __getstate__(self) -> dict[str, Any]:
        # Generated functions cannot be pickled; deepcopy would share them, pickle traces again.
        return {**self.__dict__, "functions": None}


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
    block.__class__ = getattr(type(block), ORIGINAL)
    fusion: Fusion = block.__dict__.pop(FUSION)
    return fusion.texts


def is_fused(block: nn.Module) -> bool:
    """Whether the block's class is one made by :func:`fused_class`."""
    return ORIGINAL in vars(type(block))
