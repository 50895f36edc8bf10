"""What a rewritten forward takes for granted about a module."""

from __future__ import annotations

import operator
from types import FunctionType
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
    """What a rewritten forward took for granted about one module when it was traced.

    That is its submodules, its attributes and, of those that its forward names itself, such as a
    configuration, also their attributes or items.

    Args:
        module: the module, in the state in which it was traced.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.children = list(module._modules.values())
        self.attributes = own_attributes(module)
        named = set(getattr(original_class(module).forward, "__code__", _NO_CODE).co_names)
        self.insides = {
            name: inside
            for name, value in self.attributes.items()
            if name in named and (inside := _inside(value)) is not None
        }

    def holds(self, training: bool) -> bool:
        """Whether all of it is still so."""
        module, state = self.module, self.module.__dict__
        if state["training"] is not training or list(module._modules.values()) != self.children:
            return False
        for name, value in self.attributes.items():
            now = state.get(name, _NOTHING)
            if now is not value and not _same(now, value):
                return False
        return all(_same_items(_inside(state[name]), was) for name, was in self.insides.items())


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """A module's attributes that neither ``nn.Module`` nor this package gave it."""
    return {k: v for k, v in module.__dict__.items() if k not in _MODULE_STATE}


def _same(left: Any, right: Any) -> bool:
    """Equal constants, as an unpickled module has its own, or the same object."""
    return left is right or (
        type(left) in _CONSTANTS and type(left) is type(right) and left == right
    )


def _same_items(now: list[Any] | None, before: list[Any]) -> bool:
    if now is None or len(now) != len(before):
        return False
    return all(map(operator.is_, now, before)) or all(map(_same, now, before))


def _inside(value: Any) -> list[Any] | None:
    """Items of a container, keys and values of a dictionary, attributes of an object."""
    if isinstance(value, (list, tuple)):
        return list(value)
    table = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    if not isinstance(table, dict) or isinstance(value, (type, FunctionType, nn.Module)):
        return None
    return [*table, *table.values()]


_MODULE_STATE = frozenset(nn.Module().__dict__) | {FUSION, "_is_hf_initialized"}
_CONSTANTS = frozenset((bool, int, float, str))
_NO_CODE = (lambda: None).__code__
