"""What a rewritten forward takes for granted about a module."""

from __future__ import annotations

from typing import Any

from torch import nn

#: Name in a fused block's ``__dict__`` of its :class:`l1bn.convert.fused.Fusion`.
FUSION = "_l1bn_fusion"
#: Attribute of a fused block's class: the class that the block had before.
ORIGINAL = "_l1bn_original_class"
#: Name in a fused block's class of :func:`l1bn.convert.norm_act.norm_act`.
NORM_ACT = "_l1bn_norm_act"

_NOTHING = object()


def is_fused(block: nn.Module) -> bool:
    """Whether the block's class is one made by :func:`l1bn.convert.fused.fused_class`."""
    return ORIGINAL in vars(type(block))


def original_class(module: nn.Module) -> type[nn.Module]:
    """Class of a module, for a fused block the one that it had before."""
    return getattr(type(module), ORIGINAL) if is_fused(module) else type(module)


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
