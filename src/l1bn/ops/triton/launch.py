"""Calls of the kernels: memory for results and partial sums, and one or several launches."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from l1bn.activation import split
from l1bn.ops.records import Call, Running
from l1bn.ops.triton.backward import backward_kernel, gradient_kernel, reduce_kernel
from l1bn.ops.triton.curve import ACTIVATIONS
from l1bn.ops.triton.forward import (
    deviation_kernel,
    forward_kernel,
    normalize_kernel,
    sum_kernel,
)
from l1bn.ops.triton.plan import STATISTICS, Plan, bits_like, format_of, in_order, plan_of

#: Lanes of a warp: AMD's data-centre cards have twice as many as NVIDIA's.
LANES = 64 if torch.version.hip else 32


class Kept(NamedTuple):
    """Saved activations of a call, and its statistics.

    Attributes:
        x: the input, or None where the output and the bits take its place.
        y: the output, or None where backward has no use for it.
        residual: the residual, or None where backward has no use for it.
        bits: one sign bit per element, or None beside x.
        statistics: mean, the mean's low part, σ, and how many sign bits are set (an integer as
            wide as the others, in their memory), each of C numbers.
    """

    x: Tensor | None
    y: Tensor | None
    residual: Tensor | None
    bits: Tensor | None
    statistics: Tensor


def accumulate(dtype: torch.dtype) -> torch.dtype:
    """Dtype of sums and statistics."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def above(statistics: Tensor) -> Tensor:
    """The number of set sign bits of each channel: integers, which add up alike in any order."""
    return statistics[3].view(torch.int64 if statistics.dtype == torch.float64 else torch.int32)


def sizes(plan: Plan) -> dict[str, object]:
    """Arguments that every kernel takes."""
    return {"images": plan.images, "channels": plan.channels, "positions": plan.positions}


def tiling(plan: Plan, dtype: torch.dtype) -> dict[str, object]:
    """Constants that every kernel takes."""
    return {
        "HIGH": plan.high,
        "WIDE": plan.wide,
        "ROWS": plan.rows,
        "INDEX": tl.int64 if plan.long else tl.int32,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
        "num_warps": 8 if plan.high * plan.wide >= 2048 else 4,
    }


def curve(call: Call) -> dict[str, object]:
    """The activation, as the kernels take it."""
    if call.activation is None:
        return {"ACTIVATION": 0, "PARAMETER": 0.0}
    found, parameter = split(call.activation)
    return {"ACTIVATION": ACTIVATIONS[found.name], "PARAMETER": parameter}


def running_arguments(running: Running | None) -> dict[str, object]:
    """The running statistics, and momentum as a tensor or in two float32 parts."""
    mean, var, momentum = running or (None, None, 0.0)
    if isinstance(momentum, Tensor):
        tensor, high, low = momentum, 0.0, 0.0
    else:
        tensor, high = None, float(torch.tensor(momentum, dtype=torch.float32))
        low = momentum - high
    return {
        "running_mean": mean,
        "running_var": var,
        "momentum_tensor": tensor,
        "momentum_high": high,
        "momentum_low": low,
    }


def forward(
    x: Tensor,
    residual: Tensor | None,
    call: Call,
    running: Running | None,
    keep_bits: bool,
    worst: Tensor | None,
    flagged: bool = False,
) -> tuple[Tensor, Kept]:
    """Normalize with batch statistics, and move the running ones.

    Args:
        x: input, as ``in_order`` returns it.
        residual: residual in the same order, or None.
        call: parameters and options.
        running: statistics to move in place.
        keep_bits: write sign bits.
        worst: an int32 number that receives the bits of the largest (|β| + max|residual|)/|γ|.
        flagged: add a byte of 0 to the bits.

    Returns:
        The output, and everything that backward might want; the caller drops what it need not.
    """
    plan = plan_of(x)
    acc = accumulate(x.dtype)
    y = torch.empty_like(x, memory_format=format_of(x))
    bits = bits_like(x, plan, flagged) if keep_bits else None
    statistics = torch.empty((STATISTICS, plan.channels), dtype=acc, device=x.device)
    counts = above(statistics)
    shared = sizes(plan) | tiling(plan, x.dtype)
    into: dict[str, object] = {
        "x": x, "residual": residual, "y": y, "bits": bits,
        "flag": bits[-1:] if flagged and bits is not None else None,
        "weight": call.weight, "bias": call.bias,
        "statistics": statistics, "above": counts, "worst": worst,
        "EPS_ROOT": math.sqrt(call.eps), "TINY": torch.finfo(x.dtype).tiny,
    }  # fmt: skip
    into |= shared | curve(call)
    moved = running_arguments(running) | {"count": plan.count, "EPS": call.eps}
    if plan.splits == 1:
        if worst is not None:
            worst.zero_()
        forward_kernel[plan.grid](**into, **moved)
    else:
        partials = torch.empty((4, plan.splits, plan.channels), dtype=acc, device=x.device)
        done = torch.empty(plan.groups, dtype=torch.int32, device=x.device)
        shared |= {"x": x, "partials": partials, "done": done, "SPLITS": plan.splits}
        sum_kernel[plan.grid](**shared, above=counts, worst=worst)
        deviation_kernel[plan.grid](
            **shared, **moved, statistics=statistics, EPS_ROOT=into["EPS_ROOT"], PADDED=plan.padded
        )
        normalize_kernel[plan.grid](**into, SPLITS=plan.splits)
    return y, Kept(x, y, residual, bits, statistics)


class Gradients(NamedTuple):
    """Gradients of a call; None where not wanted."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None


def backward(grad: Tensor, kept: Kept, call: Call, wanted: tuple[bool, ...]) -> Gradients:
    """Compute the gradients of x, γ, β and the residual, as far as they are wanted."""
    like = kept.x if kept.x is not None else kept.y
    assert like is not None
    grad = in_order(grad, like)
    plan = plan_of(like)
    acc = accumulate(like.dtype)
    recovered = kept.x is None
    order = format_of(like)
    dx = torch.empty_like(like, memory_format=order) if wanted[0] else None
    dresidual = None
    if wanted[3] and call.activation:
        dresidual = torch.empty_like(like, memory_format=order)
    dweight = None if call.weight is None or not wanted[1] else torch.empty_like(call.weight)
    dbias = None if call.bias is None or not wanted[2] else torch.empty_like(call.bias)
    shared = sizes(plan) | tiling(plan, like.dtype) | curve(call)
    # z is made of the residual again where x is kept alone, and rid of it where y is.
    added = kept.residual if recovered or kept.y is None else None
    if added is not None and kept.y is None and shared["num_warps"] == 8 and LANES == 32:
        shared["num_warps"] = 16  # z from x and the residual, and its slope: registers run short
    sources = {
        "grad": grad, "y": kept.y, "x": kept.x, "residual": added, "weight": call.weight,
        "bias": call.bias, "statistics": kept.statistics,
    }  # fmt: skip
    targets = sources | {
        "bits": kept.bits, "dx": dx, "dresidual": dresidual, "above": above(kept.statistics),
        "dweight": dweight, "dbias": dbias, "count": plan.count,
        "EPS_ROOT": math.sqrt(call.eps), "RECOVERED": recovered,
    }  # fmt: skip
    if plan.splits == 1:
        backward_kernel[plan.grid](**shared, **targets)
    else:
        partials = torch.empty((2, plan.splits, plan.channels), dtype=acc, device=like.device)
        sums_of = torch.empty((2, plan.channels), dtype=acc, device=like.device)
        done = torch.zeros(plan.groups, dtype=torch.int32, device=like.device)
        shared |= {"SPLITS": plan.splits, "sums_of": sums_of}
        reduce_kernel[plan.grid](
            **shared, **sources, partials=partials, done=done, PADDED=plan.padded
        )
        gradient_kernel[plan.grid](**shared, **targets)
    if wanted[3] and not call.activation:
        dresidual = grad
    return Gradients(dx, dweight, dbias, dresidual)


def signs(bits: Tensor, like: Tensor) -> Tensor:
    """Where x was at least its mean, as booleans like ``like``, for a second derivative."""
    plan = plan_of(like)
    shape = (plan.count, -1) if plan.rows else (plan.images * plan.channels, -1)
    places = torch.arange(8, device=bits.device)
    each = (bits.view(*shape, 1).int() >> places) & 1 != 0
    wide = plan.channels if plan.rows else plan.positions
    flat = each.flatten(1)[:, :wide]
    if not plan.rows:
        return flat.view(like.shape)
    spatial = like.shape[2:]
    last = flat.view(like.shape[0], *spatial, plan.channels)
    return last.movedim(-1, 1)
