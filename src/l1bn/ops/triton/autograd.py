"""Training in one autograd node that keeps y and sign bits, or x."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from l1bn.activation import Activation, clips, keeps_output
from l1bn.ops import formula
from l1bn.ops.records import Call, Context, Running, SavedOutput
from l1bn.ops.second_derivative import double_backward, frozen_backward
from l1bn.ops.tracing import is_looked_at
from l1bn.ops.triton import decide, launch
from l1bn.ops.triton.decide import Wanted, plain
from l1bn.ops.triton.plan import format_of


class Options(NamedTuple):
    """What a call does beside its tensors.

    Attributes:
        activation: None or one of ``l1bn.activation``.
        eps: floor of the variance.
        running: statistics to move, or None.
        out: receives the batch's statistics, or None.
    """

    activation: Activation | None
    eps: float
    running: Running | None
    out: list[Tensor] | None


class _Context(Context, Protocol):
    options: Options
    format: torch.memory_format


class _Train(torch.autograd.Function):
    """Returns y and, where x is not kept, σ: a second derivative reaches x through both."""

    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        options: Options,
    ) -> Tensor | tuple[Tensor, Tensor]:
        wanted = True in ctx.needs_input_grad
        # The sign of x − μ is for x's gradient.
        bits = ctx.needs_input_grad[0]
        may = Wanted(wanted and keeps_output(options.activation, x.dtype), bits)
        call = Call(weight, bias, options.activation, options.eps)
        y, kept, from_output = decide.forward(x, residual, call, options.running, may)
        if options.out is not None:
            options.out.append(kept.statistics)
        if not wanted:
            return y
        ctx.options = options._replace(running=None, out=None)
        ctx.format = format_of(y)
        ctx.set_materialize_grads(False)
        shared = kept.statistics, weight, bias
        # The caller's own tensors: a second derivative reaches no dense copy's source.
        # Beside x, y is needed where the activation clips; where it bends, the residual.
        bends = options.activation is not None and not clips(options.activation)
        ctx.keeps_output = from_output or (options.activation is not None and not bends)
        if not from_output:
            again = residual if bends else None
            ctx.save_for_backward(x, y if ctx.keeps_output else None, again, None, *shared)
            return y
        if not bits:
            ctx.save_for_backward(None, y, residual, None, *shared)
            return y
        scale = kept.statistics[2]
        ctx.save_for_backward(None, y, residual, kept.bits, *shared, scale)
        return y, scale

    @staticmethod
    def backward(
        ctx: _Context, grad: Tensor | None, *others: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        grad_scale = others[0] if others else None
        if grad is None and grad_scale is None:
            return (None,) * 5
        if grad is None or grad_scale is not None or is_looked_at(grad):
            return _differentiable(ctx, grad, grad_scale)
        kept, weight, bias = _restored(ctx)
        call = Call(plain(weight), plain(bias), ctx.options.activation, ctx.options.eps)
        grad = grad.resolve_neg()
        return *launch.backward(grad, kept, call, ctx.needs_input_grad[:4]), None


def _restored(ctx: _Context) -> tuple[launch.Kept, Tensor | None, Tensor | None]:
    """Saved tensors in the order that forward gave them; hooks promise their values only."""
    saved = ctx.saved_tensors[:7]
    x, y, residual = (
        v if v is None else v.resolve_neg().contiguous(memory_format=ctx.format) for v in saved[:3]
    )
    bits, statistics, weight, bias = (v if v is None else v.contiguous() for v in saved[3:])
    assert statistics is not None  # always saved
    return launch.Kept(x, y, residual, bits, statistics), weight, bias


def _differentiable(
    ctx: _Context, grad: Tensor | None, grad_scale: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Backward as operations that autograd differentiates again."""
    x, y, residual, bits, statistics, weight, bias, *scale = ctx.saved_tensors
    call = Call(weight, bias, ctx.options.activation, ctx.options.eps)
    found: tuple[Tensor | None, ...]
    if x is None and bits is None:
        assert grad is not None
        found = frozen_backward(grad, None, y, residual, statistics, call)
    elif x is None:
        y = y.contiguous(memory_format=ctx.format)
        output = SavedOutput(y, residual, launch.signs(bits, y), scale[0])
        found = double_backward(grad, grad_scale, output, call)
    else:
        assert grad is not None
        found = formula.closed_form_backward(grad, x, y, residual, call)
    targets = (y if x is None else x, weight, bias, y if x is None else x)
    return *formula.cast(found, targets, ctx.needs_input_grad), None


def train(
    x: Tensor,
    residual: Tensor | None,
    call: Call,
    running: Running | None = None,
    out: list[Tensor] | None = None,
) -> Tensor:
    """Normalize with batch statistics; see ``l1bn.ops.registry.Backend.train``.

    Args:
        x: input.
        residual: residual or None.
        call: the other arguments.
        running: statistics to move, or None.
        out: receives the batch's statistics, or None.
    """
    weight, bias, activation, eps = call
    y = _Train.apply(x, weight, bias, residual, Options(activation, eps, running, out))
    return y if isinstance(y, Tensor) else y[0]
