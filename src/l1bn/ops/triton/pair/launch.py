"""Calls of the kernels for two branches: memory, and one or several launches."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from l1bn.ops.records import Call, Running
from l1bn.ops.triton import launch as single
from l1bn.ops.triton.launch import above, accumulate, curve, running_arguments, sizes
from l1bn.ops.triton.pair.backward import (
    pair_backward_kernel,
    pair_gradient_kernel,
    pair_reduce_kernel,
)
from l1bn.ops.triton.pair.forward import (
    pair_deviation_kernel,
    pair_forward_kernel,
    pair_normalize_kernel,
    pair_sum_kernel,
)
from l1bn.ops.triton.plan import STATISTICS, Plan, bits_like, format_of, in_order, plan_of

#: The arguments of both branches; the first one's has the activation.
Calls = tuple[Call, Call]


class Kept(NamedTuple):
    """Saved activations of a call, and its statistics.

    Attributes:
        a: input of the first branch, or None where the output stands for it.
        b: input of the second branch.
        y: the output.
        bits: one sign bit per element of the first branch, None where no gradient is wanted.
        other_bits: those of the second branch, there with ``bits``.
        statistics: of each branch the rows of ``l1bn.ops.triton.launch.Kept``.

    Shape:
        - statistics: ``(2, 4, C)``
    """

    a: Tensor | None
    b: Tensor
    y: Tensor
    bits: Tensor | None
    other_bits: Tensor | None
    statistics: Tensor


class Gradients(NamedTuple):
    """Gradients of a call; None where not wanted."""

    a: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    b: Tensor | None
    other_weight: Tensor | None
    other_bias: Tensor | None


def _tiling(plan: Plan, dtype: torch.dtype) -> dict[str, object]:
    """As of one norm, with each tile on more threads: a thread holds values of both branches."""
    found = single.tiling(plan, dtype)
    if found["num_warps"] == 8 and single.LANES == 32:
        found["num_warps"] = 16
    return found


def _vectors(calls: Calls) -> dict[str, object]:
    first, second = calls
    return {
        "weight": first.weight, "bias": first.bias,
        "other_weight": second.weight, "other_bias": second.bias,
    }  # fmt: skip


def _floors(calls: Calls) -> dict[str, object]:
    return {"EPS_ROOT": math.sqrt(calls[0].eps), "OTHER_EPS_ROOT": math.sqrt(calls[1].eps)}


def forward(
    a: Tensor,
    b: Tensor,
    calls: Calls,
    running: tuple[Running | None, Running | None],
    keep_bits: bool,
    worst: Tensor | None,
    flagged: bool = False,
) -> tuple[Tensor, Kept]:
    """Compute ``act(norm(a) + norm(b))`` with batch statistics, and move the running ones.

    Args:
        a: input of the first branch, as ``in_order`` returns it.
        b: input of the second branch in the same order.
        calls: parameters and options of both.
        running: statistics of both, to move in place.
        keep_bits: write sign bits.
        worst: receives of the first branch what ``l1bn.ops.triton.launch.forward`` says.
        flagged: add a byte of 0 to the first branch's bits.

    Returns:
        The output, and everything that backward might want.
    """
    plan = plan_of(a)
    acc = accumulate(a.dtype)
    y = torch.empty_like(a, memory_format=format_of(a))
    bits = bits_like(a, plan, flagged) if keep_bits else None
    other_bits = bits_like(a, plan, False) if keep_bits else None
    statistics = torch.empty((2, STATISTICS, plan.channels), dtype=acc, device=a.device)
    counts = above(statistics[0])
    shared = sizes(plan) | _tiling(plan, a.dtype) | {"a": a, "b": b}
    floors = _floors(calls)
    into = shared | _vectors(calls) | curve(calls[0]) | {
        "y": y, "bits": bits, "other_bits": other_bits,
        "flag": bits[-1:] if flagged and bits is not None else None,
        "statistics": statistics, "above": counts, "worst": worst,
        "EPS_ROOT": floors["EPS_ROOT"], "TINY": torch.finfo(a.dtype).tiny,
    }  # fmt: skip
    moved = running_arguments(running[0]) | {
        f"other_{name}": value for name, value in running_arguments(running[1]).items()
    }
    moved |= floors | {"count": plan.count, "EPS": calls[0].eps, "OTHER_EPS": calls[1].eps}
    if plan.splits == 1:
        if worst is not None:
            worst.zero_()
        pair_forward_kernel[plan.grid](**(into | moved))
    else:
        partials = torch.empty((8, plan.splits, plan.channels), dtype=acc, device=a.device)
        done = torch.empty(plan.groups, dtype=torch.int32, device=a.device)
        shared |= {"partials": partials, "done": done, "SPLITS": plan.splits}
        pair_sum_kernel[plan.grid](**shared, above=counts, worst=worst)
        pair_deviation_kernel[plan.grid](
            **shared, **moved, statistics=statistics, PADDED=plan.padded
        )
        pair_normalize_kernel[plan.grid](**into, SPLITS=plan.splits)
    return y, Kept(a, b, y, bits, other_bits, statistics)


def backward(grad: Tensor, kept: Kept, calls: Calls, wanted: tuple[bool, ...]) -> Gradients:
    """Compute the gradients of a, γ, β and b, γ, β, as far as they are wanted."""
    y = kept.y
    grad = in_order(grad, y)
    plan = plan_of(y)
    order = format_of(y)
    vectors = _vectors(calls)

    def like(v: object, wanted: bool) -> Tensor | None:
        return torch.empty_like(v) if wanted and isinstance(v, Tensor) else None

    found = Gradients(
        torch.empty_like(y, memory_format=order) if wanted[0] else None,
        like(vectors["weight"], wanted[1]),
        like(vectors["bias"], wanted[2]),
        torch.empty_like(y, memory_format=order) if wanted[3] else None,
        like(vectors["other_weight"], wanted[4]),
        like(vectors["other_bias"], wanted[5]),
    )
    shared = sizes(plan) | _tiling(plan, y.dtype) | curve(calls[0]) | {
        "grad": grad, "y": y, "statistics": kept.statistics,
    }  # fmt: skip
    sources = {"a": kept.a, "b": kept.b} | vectors
    targets = _floors(calls) | {
        "bits": kept.bits, "other_bits": kept.other_bits, "above": above(kept.statistics[0]),
        "dx": found.a, "dweight": found.weight, "dbias": found.bias,
        "other_dx": found.b, "other_dweight": found.other_weight, "other_dbias": found.other_bias,
        "count": plan.count, "RECOVERED": kept.a is None,
    }  # fmt: skip
    if plan.splits == 1:
        pair_backward_kernel[plan.grid](**(shared | sources | targets))
        return found
    acc, device = accumulate(y.dtype), y.device
    partials = torch.empty((3, plan.splits, plan.channels), dtype=acc, device=device)
    done = torch.zeros(plan.groups, dtype=torch.int32, device=device)
    shared |= {
        "SPLITS": plan.splits,
        "sums_of": torch.empty((3, plan.channels), dtype=acc, device=device),
    }
    pair_reduce_kernel[plan.grid](
        **(shared | sources), partials=partials, done=done, PADDED=plan.padded
    )
    gains = {name: vectors[name] for name in ("weight", "other_weight")}
    pair_gradient_kernel[plan.grid](**(shared | targets | gains))
    return found
