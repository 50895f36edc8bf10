"""Forward of two branches with the decision what stands for the first input, as for one norm."""

from __future__ import annotations

from torch import Tensor

from l1bn.ops.records import Running
from l1bn.ops.recovery import recovery
from l1bn.ops.triton.decide import Wanted, ask, is_recoverable, plain
from l1bn.ops.triton.pair import launch
from l1bn.ops.triton.plan import in_order


def forward(
    a: Tensor,
    b: Tensor,
    calls: launch.Calls,
    running: tuple[Running | None, Running | None],
    wanted: Wanted,
) -> tuple[Tensor, launch.Kept, bool]:
    """Normalize and add, and say whether the output and b may stand for a.

    Args:
        a: input of the first branch.
        b: input of the second branch.
        calls: parameters as the caller holds them: γ is known again by its memory.
        running: statistics of both, to move.
        wanted: what may be kept: the output in the place of a, and bits with it or beside a.

    Returns:
        The output, all that backward might want, and the decision.
    """
    dense = in_order(a.resolve_neg())
    other = in_order(b.resolve_neg(), dense)
    weight = calls[0].weight
    recoverable, worst = ask(dense, weight) if wanted.output else (False, None)
    y, kept = launch.forward(
        dense, other, plain_calls(calls), running,
        keep_bits=wanted.bits, worst=worst, flagged=wanted.flag,
    )  # fmt: skip
    if worst is not None and weight is not None and not dense.is_cpu:
        recovery.note(weight, worst)
    return y, kept, recoverable and is_recoverable(dense, worst)


def plain_calls(calls: launch.Calls) -> launch.Calls:
    """Both calls with vectors as the kernels read them."""
    first, second = (
        call._replace(weight=plain(call.weight), bias=plain(call.bias)) for call in calls
    )
    return first, second
