"""Training of two joined branches in one autograd node.

It keeps the output, the second branch's input and one bit per element of each branch; where x̂
cannot be recovered from the output (``l1bn.ops.recovery``), the first branch's input too. Two calls
keep the second branch's output beside all that.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from l1bn.ops import formula
from l1bn.ops.records import Branch, Context, Running, SavedOutput
from l1bn.ops.second_derivative import double_backward
from l1bn.ops.tracing import is_looked_at
from l1bn.ops.triton.decide import Wanted
from l1bn.ops.triton.launch import signs
from l1bn.ops.triton.pair import decide, launch
from l1bn.ops.triton.plan import format_of

#: γ and β of the first branch, and of the second.
Vectors = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class _Options(NamedTuple):
    """Beside the tensors: both calls without their vectors, and the statistics to move."""

    calls: launch.Calls
    running: tuple[Running | None, Running | None]


class _Context(Context, Protocol):
    calls: launch.Calls
    format: torch.memory_format


class _Saved(NamedTuple):
    """What backward has; a only where the output cannot stand for it."""

    a: Tensor | None
    b: Tensor
    y: Tensor
    bits: Tensor | None
    other_bits: Tensor | None
    statistics: Tensor
    scale: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    other_weight: Tensor | None
    other_bias: Tensor | None

    @property
    def vectors(self) -> Vectors:
        return self.weight, self.bias, self.other_weight, self.other_bias


class _TrainPair(torch.autograd.Function):
    """Returns y and, where a is not kept, its σ: a second derivative reaches a through both."""

    @staticmethod
    def forward(
        ctx: _Context,
        a: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        b: Tensor,
        other_weight: Tensor | None,
        other_bias: Tensor | None,
        options: _Options,
    ) -> Tensor | tuple[Tensor, Tensor]:
        vectors = weight, bias, other_weight, other_bias
        wanted = any(ctx.needs_input_grad)
        y, kept, from_output = decide.forward(
            a, b, _with(vectors, options.calls), options.running, Wanted(wanted, wanted)
        )
        if not wanted:
            return y
        ctx.calls, ctx.format = options.calls, format_of(y)
        ctx.keeps_output = True
        ctx.set_materialize_grads(False)
        kept_bits = kept.bits, kept.other_bits, kept.statistics
        if not from_output:
            ctx.save_for_backward(a, b, y, *kept_bits, None, *vectors)
            return y
        scale = kept.statistics[0, 2]
        ctx.save_for_backward(None, b, y, *kept_bits, scale, *vectors)
        return y, scale

    @staticmethod
    def backward(
        ctx: _Context, grad: Tensor | None, grad_scale: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        if grad is None and grad_scale is None:
            return (None,) * 7
        saved = _Saved(*ctx.saved_tensors)
        calls = _with(saved.vectors, ctx.calls)
        wanted = ctx.needs_input_grad[:6]
        if grad is None or grad_scale is not None or is_looked_at(grad):
            found = _differentiable(grad, grad_scale, saved, calls, ctx.format)
            y, weight, bias = saved.y, saved.weight, saved.bias
            targets = y, weight, bias, y, saved.other_weight, saved.other_bias
            return *formula.cast(found, targets, wanted), None
        kept = _restored(saved, ctx.format)
        return *launch.backward(grad.resolve_neg(), kept, decide.plain_calls(calls), wanted), None


def _with(vectors: Vectors, calls: launch.Calls) -> launch.Calls:
    """Both calls with their vectors, which autograd holds."""
    weight, bias, other_weight, other_bias = vectors
    first, second = calls
    return (
        first._replace(weight=weight, bias=bias),
        second._replace(weight=other_weight, bias=other_bias),
    )


def _restored(saved: _Saved, order: torch.memory_format) -> launch.Kept:
    """Saved tensors in forward's order of memory; hooks promise their values only."""
    a, b, y = (
        v if v is None else v.resolve_neg().contiguous(memory_format=order) for v in saved[:3]
    )
    bits, other_bits, statistics = (v if v is None else v.contiguous() for v in saved[3:6])
    assert b is not None  # always saved, as these are
    assert y is not None
    assert statistics is not None
    return launch.Kept(a, b, y, bits, other_bits, statistics)


def _differentiable(
    grad: Tensor | None,
    grad_scale: Tensor | None,
    saved: _Saved,
    calls: launch.Calls,
    order: torch.memory_format,
) -> tuple[Tensor | None, ...]:
    """Backward as operations that autograd differentiates again."""
    call, other_call = calls
    if saved.a is not None:
        assert grad is not None  # σ is no output then
        first = formula.closed_form_backward(grad, saved.a, saved.y, None, call)
        second = formula.closed_form_backward(first[3], saved.b, None, None, other_call)
        return *first[:3], *second[:3]
    assert saved.bits is not None
    assert saved.scale is not None
    y = saved.y.contiguous(memory_format=order)
    centred, _, _, other_scale = formula.statistics(saved.b, other_call.eps)
    added = formula.pre_activation(centred, other_scale, None, other_call)
    output = SavedOutput(y, added, signs(saved.bits, y), saved.scale)
    grad = torch.zeros_like(y) if grad is None else grad
    own = double_backward(grad, grad_scale, output, call)
    assert own[3] is not None  # it was given a gradient
    second = formula.closed_form_backward(own[3], saved.b, None, None, other_call)
    return *own[:3], *second[:3]


def train_pair(
    first: Branch,
    second: Branch,
    calls: launch.Calls,
    running: tuple[Running | None, Running | None],
) -> Tensor:
    """Compute ``act(norm(a) + norm(b))`` with batch statistics and move the running ones.

    Args:
        first: the first branch.
        second: the second branch.
        calls: arguments of both beside their inputs.
        running: statistics of both that the kernels can move, or None.

    Shape:
        - inputs, Output: ``(N, C, *)``
    """
    plain = _with((None, None, None, None), calls)
    y = _TrainPair.apply(
        *(first.input, first.weight, first.bias),
        *(second.input, second.weight, second.bias),
        _Options(plain, running),
    )
    return y if isinstance(y, Tensor) else y[0]
