"""The user's example: run it on a copy of the model, fused against unfused."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from l1bn.activation import Activation
from l1bn.convert.fusion.search import unfuse
from l1bn.convert.generators import rewound
from l1bn.convert.kept import kept_bytes
from l1bn.nn.batchnorm import _L1BatchNorm
from l1bn.nn.fusable import HOOKS

#: A fused model may differ by as many times what one rounding of each parameter moves it.
_ROUNDINGS = 64


def call_with(model: nn.Module, example: object) -> object:
    """Call a model: a tuple or list gives positional arguments, a mapping keywords."""
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, (tuple, list)):
        return model(*example)
    return model(example)


class Ran(NamedTuple):
    """What a model did on the example.

    Attributes:
        together: of every layer that ran in training, by its path, whether all its calls were one
            with an activation.
        kept: bytes that training then keeps for backward, parameters aside.
        kept_unfused: the same without fusion, which is what BatchNorm keeps.
    """

    together: dict[str, bool]
    kept: int
    kept_unfused: int


def verify(model: nn.Module, example: object) -> Ran | None:
    """Compare outputs and gradients of a fused model with those of the same, unfused.

    Copies run, without the user's hooks; the model itself does not.

    Args:
        model: the model.
        example: its input, see ``call_with``.

    Returns:
        What the copies did; ``None`` where the example cannot be trained on.

    Raises:
        ValueError: the model cannot be copied, does not run on the example, or differs.
    """
    try:
        fused = copied(model)
    except Exception as error:
        raise ValueError(
            "convert_: expected a model that can be copied, to check the fusion by the example, "
            f"got one whose copy raised {type(error).__name__}: {error}; convert it without "
            "example, or with fuse=False"
        ) from error
    plain = copied(fused)
    unfuse(plain)
    calls: dict[str, bool] = {}
    for training in (False, True):
        try:
            wanted = _results(plain.train(training), example)
        except Exception as error:
            if training:  # such as one value per channel
                return None
            raise ValueError(
                f"convert_: expected an example that the model can run, got {_text(example)}, "
                f"which raised {type(error).__name__}: {error}; the model is unchanged"
            ) from error
        if training:
            _note_calls(fused, calls)
        got = _results(fused.train(training), example)
        what = difference(wanted, got) and _beyond_rounding(model, example, training, wanted, got)
        if what:
            raise ValueError(
                f"convert_: expected the fused model to compute the same in "
                f"{'training' if training else 'evaluation'}, got {what}: does it depend on the "
                "clock or on other state? Convert it with fuse=False; the model is unchanged"
            )
    kept, unfused = (
        kept_bytes(partial(_trained, made, example), made.parameters()) for made in (fused, plain)
    )
    return Ran(calls, kept, unfused)


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Give every module its mode and its buffers back."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _note_calls(model: nn.Module, calls: dict[str, bool]) -> None:
    """Let the layers of a copy note that they run, and whether with an activation."""
    for path, layer in model.named_modules():
        if isinstance(layer, _L1BatchNorm):
            _note(layer, path, calls, layer._normalize, layer._count)


def _note(
    layer: nn.Module,
    path: str,
    calls: dict[str, bool],
    normalize: Callable[..., Tensor],
    count: Callable[[], None],
) -> None:
    def noted(
        x: Tensor,
        activation: Activation | None = None,
        *rest: Tensor | None,
        **options: Tensor | None,
    ) -> Tensor:
        calls[path] = calls.get(path, True) and activation is not None
        return normalize(x, activation, *rest, **options)

    def counted() -> None:  # by two layers in one call, too
        calls.setdefault(path, True)
        count()

    layer.__dict__.update(_normalize=noted, _count=counted)


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


def _trained(model: nn.Module, example: object) -> list[Tensor]:
    with torch.enable_grad():
        return run(model, example)


def _results(model: nn.Module, example: object) -> list[Tensor]:
    """Outputs, buffers and gradients."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    outputs = _trained(model, example)
    with rewound(), torch.enable_grad():
        floats = [y for y in outputs if y.requires_grad]
        found: tuple[Tensor | None, ...] = ()
        if floats and parameters:
            weights = [torch.linspace(-1, 1, y.numel()).to(y).view_as(y) for y in floats]
            found = torch.autograd.grad(floats, parameters, weights, allow_unused=True)
    return [*outputs, *model.buffers(), *(torch.zeros(()) if g is None else g for g in found)]


def _beyond_rounding(
    model: nn.Module, example: object, training: bool, wanted: list[Tensor], got: list[Tensor]
) -> str | None:
    """What differs by more than rounding moves the unfused model itself.

    Some networks amplify a rounding a thousandfold: a deep one on two small images, in training. In
    double roundings are smaller by nine digits, so there the two must agree. Of a model that cannot
    run in double the parameters are moved by a rounding each, and what that does to every result is
    allowed for.
    """
    again, moved = copied(model), copied(model)
    for made in (again, moved):
        unfuse(made)
        made.train(training)
    what = difference(wanted, _results(again, example))
    if what:  # it does not even repeat itself
        return what
    if _agree_in_double(model, example, training):
        return None
    round_parameters_(moved)
    return difference(wanted, got, room_between(wanted, _results(moved, example)))


def _agree_in_double(model: nn.Module, example: object, training: bool) -> bool:
    try:
        example = pytree.tree_map_only(
            Tensor, lambda v: v.double() if v.is_floating_point() else v, example
        )
        fused, plain = (copied(model).double() for _ in range(2))
        unfuse(plain)
        wanted, got = (_results(made.train(training), example) for made in (plain, fused))
    except Exception:  # no double on this device, or tensors of single precision of its own
        return False
    return difference(wanted, got) is None


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


def _text(example: object) -> str:
    if isinstance(example, Tensor):
        return f"a tensor of shape {tuple(example.shape)}, {example.dtype}, {example.device}"
    return f"a {type(example).__name__}"
