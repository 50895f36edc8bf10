"""What a layer can compute in the same pass, and when a module's call is only its forward.

One table and one check, for the layers here and for conversion.
"""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as hooks

from l1bn.functional import Activation


class Fusable(NamedTuple):
    """An activation that a layer can compute itself.

    Attributes:
        name: the name that ``l1bn.functional.l1_batch_norm`` knows it by.
        module: its layer.
        functions: its functions.
        methods: its methods of a tensor.
    """

    name: Activation
    module: type[nn.Module]
    functions: tuple[Any, ...]
    methods: tuple[str, ...] = ()


#: Every such activation: to add one, add a line.
FUSABLE = (
    Fusable("relu", nn.ReLU, (F.relu, F.relu_, torch.relu, torch.relu_), ("relu", "relu_")),
    Fusable("relu6", nn.ReLU6, (F.relu6,)),
)

_BY_MODULE = {row.module: (row.name, row.module.forward) for row in FUSABLE}
_BY_FUNCTION = {function: row.name for row in FUSABLE for function in row.functions}
_BY_METHOD = {method: row.name for row in FUSABLE for method in row.methods}
_CALL = nn.Module.__call__
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_GLOBAL_HOOKS = (
    hooks._global_forward_pre_hooks,
    hooks._global_forward_hooks,
    hooks._global_backward_pre_hooks,
    hooks._global_backward_hooks,
)


def is_watched(module: nn.Module) -> bool:
    """Whether the module must really be called: somebody looks on, or its call was replaced."""
    state = module.__dict__
    if "forward" in state or state.get("_compiled_call_impl") is not None:
        return True
    for name in _HOOKS:
        if state[name]:
            return True
    for table in _GLOBAL_HOOKS:
        if table:
            return True
    return type(module).__call__ is not _CALL


def activation_of(act: Any) -> Activation | None:
    """Name of an activation that a layer can compute, ``None`` for any other.

    Args:
        act: a layer, a function, or the name of a tensor's method.
    """
    kind = type(act)
    found = _BY_MODULE.get(kind)
    if found is not None:
        return found[0] if kind.forward is found[1] and not is_watched(act) else None
    if kind is FunctionType or kind is BuiltinFunctionType:
        return _BY_FUNCTION.get(act)
    return _BY_METHOD.get(act) if kind is str else None


def is_identity(module: Any) -> bool:
    """Whether a module passes its input on, unseen."""
    return type(module) is nn.Identity and not is_watched(module)
