"""The user's example: run it on a copy of the model, fused against unfused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from l1bn.activation import Activation
from l1bn.convert.fusion.search import unfuse
from l1bn.model.generators import rewound
from l1bn.model.kept import kept_bytes
from l1bn.model.trial import copied, difference, room_between, round_parameters_, run
from l1bn.nn.batchnorm import _L1BatchNorm


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


def _text(example: object) -> str:
    if isinstance(example, Tensor):
        return f"a tensor of shape {tuple(example.shape)}, {example.dtype}, {example.device}"
    return f"a {type(example).__name__}"
