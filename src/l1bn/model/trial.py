"""Copies of a model: run them on an example, and compare what comes out."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from l1bn.model.generators import rewound
from l1bn.nn.fusable import HOOKS

#: A changed model may differ by as many times what one rounding of each parameter moves it.
_ROUNDINGS = 64


def call_with(model: nn.Module, example: object) -> object:
    """Call a model: a tuple or list gives positional arguments, a mapping keywords."""
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, (tuple, list)):
        return model(*example)
    return model(example)


def copied(model: nn.Module) -> nn.Module:
    """A copy without the user's hooks."""
    made = copy.deepcopy(model)
    for module in made.modules():
        for name in HOOKS:
            module.__dict__[name] = OrderedDict()
    return made


def run(model: nn.Module, example: object) -> list[Tensor]:
    """Call a model with a copy of the example, which a model may edit; the tensors it returns."""
    example = pytree.tree_map_only(Tensor, lambda v: v.detach().clone(), example)
    with rewound():
        return tensors_of(call_with(model, example))


def tensors_of(outputs: object) -> list[Tensor]:
    """The tensors that a model returned, in whatever container."""
    if isinstance(outputs, Mapping):  # also the outputs of transformers
        outputs = dict(outputs)
    return [y for y in pytree.tree_leaves(outputs) if isinstance(y, Tensor)]


def round_parameters_(model: nn.Module) -> None:
    """Move each parameter of a copy by one rounding, up or down."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                step = torch.linspace(-1, 1, parameter.numel(), device=parameter.device).sign()
                eps = torch.finfo(parameter.dtype).eps
                parameter.mul_(1 + eps * step.to(parameter.dtype).view_as(parameter))


def room_between(wanted: list[Tensor], moved: list[Tensor]) -> list[float]:
    """What a change may move results by, where roundings of the parameters move them so far."""
    return [_ROUNDINGS * _error(a, b) for a, b in zip(wanted, moved, strict=True)]


def difference(
    wanted: list[Tensor], got: list[Tensor], room: Sequence[float] | None = None
) -> str | None:
    """What differs, or None. ``room`` is allowed for each result beside its own roundings."""
    if len(wanted) != len(got):
        return "other results"
    for left, right, more in zip(wanted, got, room or [0.0] * len(got), strict=True):
        if left.shape != right.shape or left.dtype != right.dtype:
            return "another shape or dtype"
        if left.is_meta or not left.is_floating_point():
            continue
        error = _error(left, right)
        finite = left[left.isfinite()]
        scale = max(finite.abs().max().item(), 1.0) if finite.numel() else 1.0
        if not error <= max(torch.finfo(left.dtype).eps ** 0.5 * scale, more):  # NaN too
            return f"a difference of {error:.1e}"
    return None


def _error(left: Tensor, right: Tensor) -> float:
    if not left.numel() or left.is_meta or not left.is_floating_point():
        return 0.0
    same = (left == right) | (left.isnan() & right.isnan())
    return (left - right).abs().masked_fill(same, 0.0).max().item()
