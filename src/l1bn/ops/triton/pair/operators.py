"""Two joined branches as operators of ``torch.compile``, as ``l1bn.ops.operators`` has one norm.

Imports no triton before a kernel runs: a compiler cannot import while it traces.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from l1bn.ops import formula, spill
from l1bn.ops.operators import parted
from l1bn.ops.records import Call, Context
from l1bn.ops.tracing import is_transformed
from l1bn.ops.triton.plan import CHANNELS_LAST, STATISTICS, bits_bytes, order_of

#: y, the statistics of both branches, and the bits of both; those of the first with a flag.
Output = tuple[Tensor, Tensor, Tensor, Tensor]
#: Of a, γ, β and b, γ, β.
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _size(shape: torch.Size, rows: bool) -> int:
    """Bytes of one branch's sign bits."""
    positions = math.prod(shape[2:])
    return bits_bytes(shape[0], shape[1], positions, rows or positions == 1)


def _empty(v: Tensor, rows: bool) -> Tensor:
    order = CHANNELS_LAST[v.dim()] if rows else torch.contiguous_format
    return torch.empty_like(v, memory_format=order)


def _has_rows(v: Tensor) -> bool:
    return order_of(v) != torch.contiguous_format


@torch.library.custom_op("l1bn::triton_pair_forward", mutates_args=())
def forward(
    a: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    b: Tensor,
    other_weight: Tensor | None,
    other_bias: Tensor | None,
    activation: str,
    eps: float,
    other_eps: float,
    want_bits: bool,
    may_recover: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalize and add two branches; a lies behind its bits where it has to be kept."""
    from l1bn.ops.triton.decide import Wanted
    from l1bn.ops.triton.pair import decide

    calls = Call(weight, bias, activation, eps), Call(other_weight, other_bias, None, other_eps)
    wanted = Wanted(want_bits and may_recover, want_bits, flag=True)
    y, kept, recoverable = decide.forward(a, b, calls, (None, None), wanted)
    if not want_bits:
        none, other_none = a.new_empty(0, dtype=torch.uint8), a.new_empty(0, dtype=torch.uint8)
        return y, kept.statistics, none, other_none
    bits, other_bits = kept.bits, kept.other_bits
    assert bits is not None  # asked for, as these are
    assert other_bits is not None
    if may_recover and not recoverable:
        assert kept.a is not None  # dense, as forward reads it
        spilled = spill.spill(kept.a, bits.numel())
        spilled[:-1] = bits[:-1]
        bits = spilled
    return y, kept.statistics, bits, other_bits


@forward.register_fake
def _(a: Tensor, *others: Any) -> Output:
    rows = _has_rows(a)
    wide = torch.float64 if a.dtype == torch.float64 else torch.float32
    statistics = a.new_empty((2, STATISTICS, a.shape[1]), dtype=wide)
    size = _size(a.shape, rows)
    first, second = (size + 1, size) if others[-2] else (0, 0)
    return (
        _empty(a, rows), statistics,
        a.new_empty(first, dtype=torch.uint8), a.new_empty(second, dtype=torch.uint8),
    )  # fmt: skip


@torch.library.custom_op("l1bn::triton_pair_backward", mutates_args=())
def backward(
    grad: Tensor,
    a: Tensor | None,
    b: Tensor,
    y: Tensor,
    bits: Tensor,
    other_bits: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    other_weight: Tensor | None,
    other_bias: Tensor | None,
    activation: str,
    eps: float,
    other_eps: float,
    rows: bool,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of both branches; of what is not wanted or not there, nothing."""
    from l1bn.ops.triton.pair import decide, launch

    order = CHANNELS_LAST[y.dim()] if rows else torch.contiguous_format
    dense, other, output = (
        v if v is None else v.resolve_neg().contiguous(memory_format=order) for v in (a, b, y)
    )
    assert other is not None  # neither are None
    assert output is not None
    if dense is None:
        behind = spill.behind(bits, y.numel(), y.dtype)
        if behind is not None:
            dense = behind.as_strided(output.shape, output.stride())
        elif spill.is_copy(bits) and bits[-1]:  # waits for the device, there alone
            raise spill.refuse_copy()
    calls = Call(weight, bias, activation, eps), Call(other_weight, other_bias, None, other_eps)
    found = launch.backward(
        grad.resolve_neg(),
        launch.Kept(dense, other, output, bits, other_bits, statistics),
        decide.plain_calls(calls),
        tuple(wanted),
    )
    da, dweight, dbias, db, other_dweight, other_dbias = (
        grad.new_empty(0) if v is None else v for v in found
    )
    return da, dweight, dbias, db, other_dweight, other_dbias


@backward.register_fake
def _(grad: Tensor, *others: Any) -> Gradients:
    rows, wanted = others[-2:]
    weight, bias, other_weight, other_bias = others[6:10]

    def of_vector(v: Tensor | None, wanted: bool) -> Tensor:
        return torch.empty_like(v) if wanted and v is not None else grad.new_empty(0)

    def of_input(wanted: bool) -> Tensor:
        return _empty(grad, rows) if wanted else grad.new_empty(0)

    return (
        of_input(wanted[0]), of_vector(weight, wanted[1]), of_vector(bias, wanted[2]),
        of_input(wanted[3]), of_vector(other_weight, wanted[4]), of_vector(other_bias, wanted[5]),
    )  # fmt: skip


class _Context(Context, Protocol):
    options: tuple[str, float, float, bool]


def _keep(ctx: _Context, inputs: tuple[Any, ...], output: Output) -> None:
    """Save for backward what eager mode would."""
    a, weight, bias, b, other_weight, other_bias, activation, eps, other_eps, _, may_recover = (
        inputs
    )
    y, statistics, bits, other_bits = output
    ctx.mark_non_differentiable(statistics, bits, other_bits)
    ctx.set_materialize_grads(False)
    # Where nothing is compiled after all there are derivatives of any order.
    kept = None if may_recover and is_transformed(y) else a, b, y, bits, other_bits
    ctx.save_for_backward(*kept, statistics, weight, bias, other_weight, other_bias)
    ctx.options = activation, eps, other_eps, _has_rows(a)


def _differentiate(ctx: _Context, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    wanted = ctx.needs_input_grad[:6]
    if grad is None:
        return (None,) * 11
    a, b, y, bits, other_bits, statistics, *vectors = ctx.saved_tensors
    weight, bias, other_weight, other_bias = vectors
    activation, eps, other_eps, rows = ctx.options
    if a is not None and torch.is_grad_enabled():
        call = Call(weight, bias, activation, eps)
        own = formula.closed_form_backward(grad, a, y, None, call)
        call = Call(other_weight, other_bias, None, other_eps)
        other = formula.closed_form_backward(own[3], b, None, None, call)
        found: tuple[Tensor, ...] = *own[:3], *other[:3]
    else:
        found = backward(
            grad, a, b, y, bits, other_bits,
            statistics=statistics, weight=weight, bias=bias,
            other_weight=other_weight, other_bias=other_bias,
            activation=activation, eps=eps, other_eps=other_eps, rows=rows, wanted=list(wanted),
        )  # fmt: skip
    targets = y, weight, bias, y, other_weight, other_bias
    return *formula.cast(found, targets, wanted), *(None,) * 5


forward.register_autograd(_differentiate, setup_context=_keep)


def train(
    a: Tensor, b: Tensor, calls: tuple[Call, Call], may_recover: bool
) -> tuple[Tensor, Tensor]:
    """Training as the compiler sees it.

    Args:
        a: input of the first branch.
        b: input of the second branch.
        calls: arguments of both; the first one's has the activation.
        may_recover: False where nothing can tell in time whether x̂ can be recovered.

    Returns:
        The output, and the statistics of both, not differentiable.
    """
    first, second = calls
    given = a, first.weight, first.bias, b, second.weight, second.bias
    differentiable = torch.is_grad_enabled() and any(
        v is not None and v.requires_grad for v in given
    )
    name, _ = parted(first.activation)
    assert name is not None  # registry.PairBackend has it so
    y, statistics, _, _ = forward(*given, name, first.eps, second.eps, differentiable, may_recover)
    return y, statistics.detach()
