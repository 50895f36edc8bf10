"""Forward with the decision what backward will have: the output and the bits, or the input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from l1bn.ops.records import Call, Running
from l1bn.ops.recovery import LIMIT, recovery
from l1bn.ops.triton import launch
from l1bn.ops.triton.plan import in_order


class Wanted(NamedTuple):
    """What may be kept in the place of x: its output, with sign bits and a flag behind them."""

    output: bool
    bits: bool
    flag: bool = False


def forward(
    x: Tensor, residual: Tensor | None, call: Call, running: Running | None, wanted: Wanted
) -> tuple[Tensor, launch.Kept, bool]:
    """Normalize, and say whether the output may stand for the input.

    Args:
        x: input.
        residual: residual or None.
        call: parameters as the caller holds them: γ is known again by its memory.
        running: statistics to move, or None.
        wanted: what may be kept.

    Returns:
        The output, all that backward might want, and whether x̂ can be read off the output.
    """
    dense = in_order(x.resolve_neg())
    added = None if residual is None else in_order(residual.resolve_neg(), dense)
    weight = call.weight
    recoverable, worst = ask(dense, weight) if wanted.output else (False, None)
    dense_call = call._replace(weight=plain(weight), bias=plain(call.bias))
    bits = recoverable and wanted.bits
    y, kept = launch.forward(
        dense, added, dense_call, running, keep_bits=bits, worst=worst, flagged=wanted.flag
    )
    if worst is not None and weight is not None and not dense.is_cpu:
        recovery.note(weight, worst)
    return y, kept, recoverable and is_recoverable(dense, worst)


def plain(vector: Tensor | None) -> Tensor | None:
    """A vector as the kernels read it: without gaps, its sign in its memory."""
    return None if vector is None else vector.resolve_neg().contiguous()


def ask(x: Tensor, weight: Tensor | None) -> tuple[bool, Tensor | None]:
    """Whether backward may read x̂ from y, and where forward leaves its largest r."""
    worst = torch.empty(1, dtype=torch.int32, device=x.device)
    if x.is_cpu:
        return True, worst
    if weight is None:
        return False, None
    return recovery.may_keep_output(weight, x.dtype), worst


def is_recoverable(x: Tensor, worst: Tensor | None) -> bool:
    """Look at r where there is nothing to wait for; elsewhere ``ask`` has decided."""
    if x.is_cpu and worst is not None:
        return float(worst.view(torch.float32)) <= LIMIT[x.dtype]
    return True
