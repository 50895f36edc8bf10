"""Training in one autograd node that keeps y and sign bits, or x."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from l1bn.activation import Activation, clips, keeps_output
from l1bn.ops import formula
from l1bn.ops.records import Call, Context, Running, SavedOutput
from l1bn.ops.recovery import LIMIT, recovery
from l1bn.ops.second_derivative import double_backward, frozen_backward
from l1bn.ops.triton import launch
from l1bn.ops.triton.plan import format_of, in_order


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
        dense = in_order(x.resolve_neg())
        readable = keeps_output(options.activation, x.dtype)
        call = Call(_plain(weight), _plain(bias), options.activation, options.eps)
        added = None if residual is None else in_order(residual.resolve_neg(), dense)
        wanted = True in ctx.needs_input_grad
        from_output, worst = _ask(dense, weight) if wanted and readable else (False, None)
        # The sign of x − μ is for x's gradient.
        bits = from_output and ctx.needs_input_grad[0]
        y, kept = launch.forward(dense, added, call, options.running, bits, worst)
        if worst is not None and weight is not None and not dense.is_cpu:
            recovery.note(weight, worst)
        if options.out is not None:
            options.out.append(kept.statistics)
        if not wanted:
            return y
        ctx.options = options._replace(running=None, out=None)
        ctx.format = format_of(dense)
        ctx.set_materialize_grads(False)
        shared = kept.statistics, weight, bias
        from_output = from_output and _recoverable(dense, worst)
        # Beside x, y is needed where the activation clips; where it bends, the residual.
        bends = options.activation is not None and not clips(options.activation)
        ctx.keeps_output = from_output or (options.activation is not None and not bends)
        if not from_output:
            again = added if bends else None
            ctx.save_for_backward(dense, y if ctx.keeps_output else None, again, None, *shared)
            return y
        if not bits:
            ctx.save_for_backward(None, y, added, None, *shared)
            return y
        scale = kept.statistics[2]
        ctx.save_for_backward(None, y, added, kept.bits, *shared, scale)
        return y, scale

    @staticmethod
    def backward(
        ctx: _Context, grad: Tensor | None, *others: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        grad_scale = others[0] if others else None
        if grad is None and grad_scale is None:
            return (None,) * 5
        if grad is None or grad_scale is not None or torch.is_grad_enabled():
            return _differentiable(ctx, grad, grad_scale)
        kept, weight, bias = _restored(ctx)
        call = Call(_plain(weight), _plain(bias), ctx.options.activation, ctx.options.eps)
        grad = grad.resolve_neg()
        return *launch.backward(grad, kept, call, ctx.needs_input_grad[:4]), None


def _plain(vector: Tensor | None) -> Tensor | None:
    """A vector as the kernels read it: without gaps, its sign in its memory."""
    return None if vector is None else vector.resolve_neg().contiguous()


def _restored(ctx: _Context) -> tuple[launch.Kept, Tensor | None, Tensor | None]:
    """Saved tensors in the order that forward gave them; hooks promise their values only."""
    saved = ctx.saved_tensors[:7]
    x, y, residual = (v if v is None else v.contiguous(memory_format=ctx.format) for v in saved[:3])
    bits, statistics, weight, bias = (v if v is None else v.contiguous() for v in saved[3:])
    assert statistics is not None  # always saved
    return launch.Kept(x, y, residual, bits, statistics), weight, bias


def _ask(x: Tensor, weight: Tensor | None) -> tuple[bool, Tensor | None]:
    """Whether backward may read x̂ from y, and where forward leaves its largest r."""
    worst = torch.empty(1, dtype=torch.int32, device=x.device)
    if x.is_cpu:
        return True, worst
    if weight is None:
        return False, None
    return recovery.may_keep_output(weight, x.dtype), worst


def _recoverable(x: Tensor, worst: Tensor | None) -> bool:
    """Look at r where there is nothing to wait for; elsewhere ``_ask`` has decided."""
    if x.is_cpu and worst is not None:
        return float(worst.view(torch.float32)) <= LIMIT[x.dtype]
    return True


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
