"""The eager backend's node for activations that clip, and for none: y and one bit kept.

x is kept where x̂ cannot be recovered from y, and without an activation.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from l1bn.activation import Activation
from l1bn.ops import formula
from l1bn.ops.eager import passes
from l1bn.ops.mask import Places
from l1bn.ops.records import Call, Context, SavedOutput
from l1bn.ops.recovery import LIMIT, recovery
from l1bn.ops.second_derivative import double_backward
from l1bn.ops.tracing import is_looked_at


class _Context(Context, Protocol):
    options: tuple[Activation | None, float]
    count: int
    blocks: tuple[list[passes.Place], tuple[Places, ...]]


class _Train(torch.autograd.Function):
    """Returns y, with the statistics left in ``out``; where x is not kept, also σ.

    A second derivative then reaches x through y and σ, both outputs of this node.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        options: tuple[Activation | None, float],
        out: list[Tensor],
    ) -> Tensor | tuple[Tensor, Tensor]:
        call = Call(weight, bias, *options)
        activation = call.activation
        of_x = ctx.needs_input_grad[0]
        want_bits = of_x and may_recover(x, call)
        y, statistics, bits = passes.forward(x, residual, call, of_x, want_bits)
        mean, scale, share, count = statistics
        assert isinstance(count, int)
        out += mean, scale
        if True not in ctx.needs_input_grad:
            return y
        ctx.set_materialize_grads(False)
        ctx.options, ctx.keeps_output, ctx.count = options, activation is not None, count
        vectors = mean, scale, share, weight, bias
        recovers = recovered(x, residual, call, statistics, bits)
        if recovers and bits is not None:
            ctx.blocks = bits.blocks, bits.places
            ctx.save_for_backward(None, y, residual, bits.packed, *vectors)
            return y, scale
        ctx.save_for_backward(x, y if activation else None, None, None, *vectors)
        return y

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, grad_scale = (*grads, None)[:2]
        if grad is None and grad_scale is None:
            return (None,) * 6
        x, y, residual, packed, mean, scale, share, weight, bias = ctx.saved_tensors
        call = Call(weight, bias, *ctx.options)
        bits = None if packed is None else passes.Bits(packed, *ctx.blocks)
        kept = passes.Kept(passes.Statistics(mean, scale, share, ctx.count), x, y, residual, bits)
        wanted = ctx.needs_input_grad
        found: tuple[Tensor | None, ...]
        if grad is None or grad_scale is not None or is_looked_at(grad):
            found = _differentiable(grad, grad_scale, call, kept)
        else:
            found = passes.backward(grad, call, kept, wanted[0], wanted[3])
        of_x = y if x is None else x
        return *formula.cast(found, (of_x, weight, bias, of_x), wanted), None, None


def may_recover(x: Tensor, call: Call) -> bool:
    """Whether x̂ may be recovered from the output, as far as is known before forward."""
    if call.activation is None or not x.numel():
        return False
    if x.is_cuda:
        return call.weight is not None and recovery.may_keep_output(call.weight, x.dtype)
    return x.is_cpu  # where looking afterwards is no wait for a device


def recovered(
    x: Tensor,
    residual: Tensor | None,
    call: Call,
    statistics: passes.Statistics,
    bits: passes.Bits | None,
) -> bool:
    """Whether the output and the bits take the input's place, now that forward has run."""
    if call.activation is None or not x.numel():
        return False
    # A GPU is asked without bits, too: for the next step.
    asked = bits is not None or x.is_cuda
    return asked and _recoverable(x, residual, call, statistics.scale) and bits is not None


def _recoverable(x: Tensor, residual: Tensor | None, call: Call, scale: Tensor) -> bool:
    """Look at what was computed where there is nothing to wait for, see ``l1bn.ops.recovery``."""
    weight, bias = call.weight, call.bias
    if not (x.is_cpu or (x.is_cuda and weight is not None)):
        return False
    worst = torch.zeros_like(scale) if bias is None else bias.to(scale.dtype).abs()
    if residual is not None:
        worst = worst + passes.largest(residual)
    worst = worst + torch.finfo(x.dtype).tiny  # below it y has few digits
    if weight is not None:
        worst = worst / weight.to(scale.dtype).abs()
    lost = (scale <= math.sqrt(call.eps)) | worst.isnan()  # 0/0: γ is 0
    # Of a channel that is not finite nothing is to be recovered.
    ratio = torch.where(scale.isnan(), 0.0, torch.where(lost, math.inf, worst)).amax()
    if x.is_cpu:
        return bool(ratio <= LIMIT[x.dtype])
    assert weight is not None
    recovery.note(weight, ratio.float().view(1).view(torch.int32))
    return True


def _differentiable(
    grad: Tensor | None, grad_scale: Tensor | None, call: Call, kept: passes.Kept
) -> tuple[Tensor | None, ...]:
    """Gradients as operations that autograd differentiates."""
    if kept.x is not None:
        assert grad is not None  # there is no other output
        return formula.closed_form_backward(grad, kept.x, kept.y, kept.residual, call)
    assert kept.y is not None  # all three are kept together
    assert kept.bits is not None
    positive = kept.bits.whole(kept.y)
    output = SavedOutput(kept.y, kept.residual, positive, kept.statistics.scale)
    return double_backward(grad, grad_scale, output, call)


def train(x: Tensor, residual: Tensor | None, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize with batch statistics, see ``l1bn.ops.registry.Backend``."""
    out: list[Tensor] = []
    y = _Train.apply(x, call.weight, call.bias, residual, (call.activation, call.eps), out)
    mean, scale = (v.detach() for v in out)
    return y if isinstance(y, Tensor) else y[0], mean, scale
