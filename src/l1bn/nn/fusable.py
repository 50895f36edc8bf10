"""What a layer can compute in the same pass, and when a module's call is only its forward.

One table and one check, for the layers here and for conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from l1bn.activation import DESCRIPTIONS, Activation


class Fusable(NamedTuple):
    """An activation that a layer can compute itself.

    Attributes:
        name: its name in ``l1bn.activation``.
        module: its layer.
        functions: its functions.
        methods: its methods of a tensor.
        option: attribute of the layer, and argument of the functions, that says more.
    """

    name: str
    module: type[nn.Module]
    functions: tuple[Callable[..., Tensor], ...]
    methods: tuple[str, ...] = ()
    option: str | None = None

    def activation(self, option: object) -> Activation | None:
        """The activation for a value of the option, ``None`` where it is no known one."""
        if self.option is None:
            return self.name
        if self.option == "approximate":
            return {"none": "gelu", "tanh": "gelu_tanh"}.get(str(option))
        return (self.name, float(option)) if isinstance(option, (int, float)) else None

    def default(self) -> object:
        """The option where none is given."""
        return "none" if self.option == "approximate" else DESCRIPTIONS[self.name].parameter


#: Every such activation: to add one, add a line.
FUSABLE = (
    Fusable("relu", nn.ReLU, (F.relu, F.relu_, torch.relu, torch.relu_), ("relu", "relu_")),
    Fusable("relu6", nn.ReLU6, (F.relu6,)),
    Fusable("leaky_relu", nn.LeakyReLU, (F.leaky_relu, F.leaky_relu_), option="negative_slope"),
    Fusable("elu", nn.ELU, (F.elu, F.elu_), option="alpha"),
    Fusable("silu", nn.SiLU, (F.silu,)),
    Fusable("hardswish", nn.Hardswish, (F.hardswish,)),
    Fusable("hardsigmoid", nn.Hardsigmoid, (F.hardsigmoid,)),
    Fusable("gelu", nn.GELU, (F.gelu,), option="approximate"),
    Fusable("mish", nn.Mish, (F.mish,)),
    Fusable(
        "sigmoid", nn.Sigmoid, (F.sigmoid, torch.sigmoid, torch.sigmoid_), ("sigmoid", "sigmoid_")
    ),
    Fusable("tanh", nn.Tanh, (F.tanh, torch.tanh, torch.tanh_), ("tanh", "tanh_")),
)
#: Arguments that say more of an activation, of functions and layers.
OPTIONS = frozenset(row.option for row in FUSABLE if row.option is not None)
#: Methods of a tensor that are activations.
METHODS = frozenset(method for row in FUSABLE for method in row.methods)

_BY_MODULE: dict[type, tuple[Fusable, object]] = {
    row.module: (row, row.module.forward) for row in FUSABLE
}
_BY_FUNCTION: dict[object, Fusable] = {
    function: row for row in FUSABLE for function in row.functions
}
_BY_METHOD = {method: row.name for row in FUSABLE for method in row.methods}
NO_OPTIONS: Mapping[str, object] = {}
_CALL, _CALL_IMPL = nn.Module.__call__, nn.Module._call_impl
#: A module's tables of hooks, and what a reader calls what is in them.
HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}
_GLOBAL_HOOKS = (
    hooks._global_forward_pre_hooks,
    hooks._global_forward_hooks,
    hooks._global_backward_pre_hooks,
    hooks._global_backward_hooks,
)


def is_watched(module: nn.Module) -> bool:
    """Whether the module must really be called: somebody looks on, or its call was replaced."""
    state = module.__dict__
    if "forward" in state or "_call_impl" in state:
        return True
    if state.get("_compiled_call_impl") is not None:
        return True
    for name in HOOKS:
        if state[name]:
            return True
    for table in _GLOBAL_HOOKS:
        if table:
            return True
    return type(module).__call__ is not _CALL or type(module)._call_impl is not _CALL_IMPL


def activation_of(
    act: object, more: Sequence[object] = (), options: Mapping[str, object] = NO_OPTIONS
) -> Activation | None:
    """An activation that a layer can compute, ``None`` for any other.

    Args:
        act: a layer, a function, or the name of a tensor's method.
        more: arguments of its call after the tensor.
        options: keywords of its call.
    """
    kind = type(act)
    found = _BY_MODULE.get(kind)
    if found is not None and isinstance(act, nn.Module):
        row, forward = found
        if type(act).forward is not forward or more or options or is_watched(act):
            return None
        return row.name if row.option is None else row.activation(getattr(act, row.option, None))
    if kind is FunctionType or kind is BuiltinFunctionType:
        known = _BY_FUNCTION.get(act)
        return None if known is None else _called(known, more, options)
    return _BY_METHOD.get(act) if isinstance(act, str) and not more and not options else None


def _called(
    row: Fusable, more: Sequence[object], options: Mapping[str, object]
) -> Activation | None:
    """The activation of a function's call. In place or not is the same to a fused call."""
    if len(more) > 1 or any(name not in ("inplace", row.option) for name in options):
        return None
    if row.option is None:
        return row.name if not more or isinstance(more[0], bool) else None
    given = more[0] if more else options.get(row.option, row.default())
    return None if isinstance(given, bool) else row.activation(given)


def is_identity(module: object) -> bool:
    """Whether a module passes its input on, unseen."""
    return type(module) is nn.Identity and not is_watched(module)
