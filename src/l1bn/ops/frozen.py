"""Calls in which x̂ is a constant to every gradient in demand: backward needs no tensor for them.

In evaluation without γ's gradient the output is a constant per channel times x; in training that
demands neither x's gradient nor γ's, the output is a constant plus β and the residual. Backward
needs the constants per channel, and with an activation one bit per element. BatchNorm keeps the
whole input here, and its ReLU the output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from l1bn.activation import alive, clips
from l1bn.ops import formula, mask
from l1bn.ops.records import Call, Context, Running
from l1bn.ops.tracing import is_transformed


class _Context(Context, Protocol):
    places: mask.Places
    bias_dtype: torch.dtype | None


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,  # noqa: ARG004  added by compute; its gradient is g
        call: Call,
        running: Running | None,
        compute: Callable[[], Tensor],
    ) -> Tensor:
        y, activation = compute(), call.activation
        bits = factor = None
        if activation is not None:
            bits, ctx.places = mask.pack(alive(y, activation))
        if x is not None and running is not None and ctx.needs_input_grad[0]:
            wide = formula.accumulate_dtype(x.dtype)
            factor = (running.var.to(wide) + call.eps).rsqrt()
            factor = factor if call.weight is None else factor * call.weight.to(wide)
        ctx.save_for_backward(factor, bits)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = grads
        factor, bits = ctx.saved_tensors
        if bits is not None:
            g = torch.where(mask.unpack(bits, ctx.places), g, 0.0)
        of_x, of_bias, of_residual = ctx.needs_input_grad[:3]
        dx = dbias = None
        if of_x:
            dx = (g.to(factor.dtype) * formula.per_channel(factor, g)).to(g.dtype)
        if of_bias:
            wide = formula.accumulate_dtype(g.dtype)
            dbias = g.sum(formula.reduce_dims(g), dtype=wide).to(ctx.bias_dtype)
        return dx, dbias, g if of_residual else None, None, None, None


def serves(x: Tensor, residual: Tensor | None, call: Call) -> bool:
    """Whether a gradient is wanted, but not γ's, and one bit tells what the activation passes."""
    weight, bias, activation, _ = call
    if not torch.is_grad_enabled() or (weight is not None and weight.requires_grad):
        return False
    if activation is not None and not clips(activation):
        return False
    return any(v is not None and v.requires_grad for v in (x, bias, residual))


def evaluate(
    x: Tensor,
    residual: Tensor | None,
    call: Call,
    running: Running,
    compute: Callable[[], Tensor],
) -> Tensor:
    """Give what ``compute`` returns the gradient of a frozen layer.

    Args:
        x: input.
        residual: residual.
        call: the other arguments; γ needs no gradient, and an activation clips.
        running: running statistics.
        compute: evaluation without gradients.

    Shape:
        - x, residual, Output: ``(N, C, *)``
    """
    return _Frozen.apply(x, call.bias, residual, call, running, compute)


def only_shifts(x: Tensor, residual: Tensor | None, call: Call) -> bool:
    """Whether in training a gradient is wanted, but neither x's nor γ's; else as ``serves``."""
    if x.requires_grad or not serves(x, residual, call):
        return False
    return not is_transformed(x)


def shift(residual: Tensor | None, call: Call, compute: Callable[[], Tensor]) -> Tensor:
    """Give what ``compute`` returns the gradients of β and the residual, which are added in it.

    Args:
        residual: residual.
        call: the other arguments; an activation clips.
        compute: training without gradients.

    Shape:
        - residual, Output: ``(N, C, *)``
    """
    return _Frozen.apply(None, call.bias, residual, call, None, compute)


def composed(x: Tensor, residual: Tensor | None, call: Call, running: Running) -> Tensor:
    """Evaluation by PyTorch's own operators, keeping what the gradients in demand need.

    Arguments as ``l1bn.ops.formula.evaluate``.
    """

    def compute() -> Tensor:
        return formula.evaluate(x, residual, call, running)

    if not serves(x, residual, call) or is_transformed(x):
        return compute()
    return evaluate(x, residual, call, running, compute)
