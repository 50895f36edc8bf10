"""L1BN over the batches of all processes of a group.

Forward takes two reductions, for the deviation needs the mean of all first; backward takes one.
They are always of the same size, so that processes with batches of different sizes, an empty one
included, never wait for each other in vain. Reductions are in float64: the vectors are short.
Forward has nothing to compute while it waits, nor has backward where it reads sign bits.

Without an activation, and with one that clips, the passes are those of the eager backend, which
keep the output and one bit per element. Other activations, and what is compiled, keep the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from l1bn.activation import Activation, clips
from l1bn.ops import formula, frozen
from l1bn.ops.eager import passes
from l1bn.ops.eager.node import may_recover, recovered
from l1bn.ops.mask import Places
from l1bn.ops.records import Call, Context
from l1bn.ops.tracing import is_transformed

if TYPE_CHECKING:  # a torch without torch.distributed has none
    from torch.distributed import ProcessGroup


def _sum(x: Tensor) -> Tensor:
    """Sum over every dimension but the channel's, in float64."""
    return x.sum(formula.reduce_dims(x)).double()


def _all_reduce(group: ProcessGroup | None, *vectors: Tensor) -> tuple[Tensor, ...]:
    return _start(group, *vectors)()


def _start(group: ProcessGroup | None, *vectors: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Begin a reduction; what is returned waits for it."""
    packed = torch.cat(vectors)
    if torch.compiler.is_compiling():  # a graph takes no handle, and overlaps by itself
        dist.all_reduce(packed, group=group)
        work = None
    else:
        work = dist.all_reduce(packed, group=group, async_op=True)

    def wait() -> tuple[Tensor, ...]:
        if work is not None:
            work.wait()
        return packed.split([len(v) for v in vectors])

    return wait


def _reduce_over(group: ProcessGroup | None) -> passes.Reduce:
    def reduce(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        one, other = _all_reduce(group, a.double(), b.double())
        return one, other

    return reduce


class _KeptContext(Context, Protocol):
    options: tuple[Activation | None, float]
    group: ProcessGroup | None
    blocks: tuple[list[passes.Place], tuple[Places, ...]] | None


class _Train(torch.autograd.Function):
    """By the eager backend's passes."""

    @staticmethod
    def forward(
        ctx: _KeptContext,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        options: tuple[Activation | None, float],
        group: ProcessGroup | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        call = Call(weight, bias, *options)
        want_bits = ctx.needs_input_grad[0] and may_recover(x, call)
        y, statistics, bits = passes.forward(
            x, residual, call, True, want_bits, _reduce_over(group)
        )
        if not recovered(x, residual, call, statistics, bits):
            bits = None
        kept = (x, None, None) if bits is None else (None, residual, bits.packed)
        mean, scale, share, count = statistics
        assert isinstance(count, Tensor)  # with a reduction
        output = y if call.activation else None
        ctx.save_for_backward(*kept, output, weight, bias, mean, scale, share, count)
        ctx.blocks = None if bits is None else (bits.blocks, bits.places)
        ctx.options, ctx.group = options, group
        ctx.keeps_output = call.activation is not None
        ctx.mark_non_differentiable(mean, scale, count)
        return y, mean, scale, count

    @staticmethod
    @once_differentiable
    def backward(ctx: _KeptContext, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, residual, packed, y, weight, bias, *statistics = ctx.saved_tensors
        bits = None if ctx.blocks is None else passes.Bits(packed, *ctx.blocks)
        wanted = ctx.needs_input_grad
        found = passes.backward(
            grad,
            Call(weight, bias, *ctx.options),
            passes.Kept(passes.Statistics(*statistics), x, y, residual, bits),
            wanted[0],
            wanted[3],
            _reduce_over(ctx.group),
        )
        like = x if y is None else y
        return *formula.cast(found, (like, weight, bias, like), wanted), None, None


class _Context(Context, Protocol):
    options: tuple[Activation | None, float]
    group: ProcessGroup | None
    bias_dtype: torch.dtype | None


class _TrainByFormula(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        options: tuple[Activation | None, float],
        group: ProcessGroup | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        call = Call(weight, bias, *options)
        activation = call.activation
        wide = x.to(formula.accumulate_dtype(x.dtype))
        elements = x.numel() // x.shape[1]
        size = torch.full((1,), elements, dtype=torch.float64, device=x.device)
        # The local mean keeps the local sum exact; an empty batch contributes 0.
        local = wide.mean(formula.reduce_dims(x)).double() * size if elements else _sum(wide)
        total, count = _all_reduce(group, local, size)
        mean = (total / count).to(wide.dtype)
        centred = wide - formula.per_channel(mean, x)
        deviation, signs = _all_reduce(group, _sum(centred.abs()), _sum(_sign(centred)))
        deviation = (formula.K * deviation / count).to(wide.dtype)
        scale = deviation.clamp_min(math.sqrt(call.eps))
        y = formula.affine(centred, scale, residual, call, x.dtype)
        signs = (signs / count).to(wide.dtype)
        ctx.keeps_output = activation is not None and clips(activation)
        again = activation is not None and not ctx.keeps_output
        kept = (None, bias, residual) if again else (y if ctx.keeps_output else None, None, None)
        ctx.save_for_backward(x, weight, mean, scale, signs, count, *kept)
        ctx.options, ctx.group = options, group
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.mark_non_differentiable(mean, scale, count)
        return y, mean, scale, count

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, mean_sign, count, y, bias, residual = ctx.saved_tensors
        call = Call(weight, bias, *ctx.options)
        centred = x.to(mean.dtype) - formula.per_channel(mean, x)
        g = formula.through(grad, y, centred, scale, residual, call)
        dbias, dcentred = _sum(g), _sum(g * centred)
        reduced = _start(ctx.group, dbias, dcentred)
        sign, factor = _sign(centred), formula.gain(weight, scale)  # meanwhile
        all_dbias, all_dcentred = reduced()
        mean_dweight = (all_dcentred / scale / count).to(mean.dtype)
        dx = formula.input_gradient(
            g,
            sign,
            mean_sign,
            factor=factor,
            mean_gradient=(all_dbias / count).to(mean.dtype),
            scale_gradient=-factor * mean_dweight * formula.above_floor(scale, call.eps),
        )
        # γ and β get this process' share, as in DistributedDataParallel's other parameters.
        return (
            dx.to(x.dtype),
            None if weight is None else (dcentred / scale).to(weight.dtype),
            None if ctx.bias_dtype is None else dbias.to(ctx.bias_dtype),
            g.to(grad.dtype) if ctx.needs_input_grad[3] else None,
            None,
            None,
        )


def _sign(centred: Tensor) -> Tensor:
    return torch.where(centred >= 0, 1.0, -1.0).to(centred.dtype)


def sync_train(
    x: Tensor, residual: Tensor | None, call: Call, group: ProcessGroup | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize with the statistics of every process' batch.

    Args:
        x: this process' input; processes may have different, also empty, batches.
        residual: added before the activation.
        call: the other arguments.
        group: process group.

    Returns:
        ``(y, mean, scale, count)``: the output, and the statistics of the group, of which
        ``count`` is M over all processes.

    Shape:
        - x, residual, y: ``(N, C, *)``
        - mean, scale: ``(C,)``
        - count: ``(1,)``
    """
    weight, bias, activation, eps = call

    def train() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        served = activation is None or clips(activation)
        kind = _Train if served and not is_transformed(x) else _TrainByFormula
        return kind.apply(x, weight, bias, residual, (activation, eps), group)

    if not frozen.only_shifts(x, residual, call):
        return train()
    statistics: list[Tensor] = []

    def compute() -> Tensor:
        y, *found = train()
        statistics.extend(found)
        return y

    y = frozen.shift(residual, call, compute)
    mean, scale, count = statistics
    return y, mean, scale, count
