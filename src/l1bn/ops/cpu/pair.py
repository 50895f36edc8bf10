"""act(norm(a) + norm(b)) of the ``cpu`` backend: where two branches of a residual block meet.

A gradient passes only where the output y is alive, and there the two normalized branches add up to
y. So beside y, which the next layer keeps anyway, and one bit per element of each branch, it is
enough to keep one normalized branch where y is alive: half a tensor, where BatchNorm keeps two. A
branch from which x̂ cannot be recovered (``l1bn.ops.cpu.kernels.RECOVERY_LIMIT``) keeps its x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from l1bn.activation import Activation, alive
from l1bn.ops import formula
from l1bn.ops.cpu import kernels
from l1bn.ops.cpu.layout import Layout, sign_bits, spread
from l1bn.ops.records import Branch, Call, Context, SavedOutput
from l1bn.ops.second_derivative import Gradients, double_backward
from l1bn.ops.tracing import is_transformed


class _Kept(NamedTuple):
    """What backward has of one branch: ``x``, or ``bits`` in its place."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    statistics: Tensor
    bits: Tensor | None
    scale: Tensor


class _Saved(NamedTuple):
    """What backward has: both branches, the output, and the normalized second branch."""

    ours: _Kept
    theirs: _Kept
    y: Tensor
    packed: Tensor | None


class _Options(NamedTuple):
    """Beside the tensors: the activation, both floors of the variance, and both layouts."""

    activation: Activation
    eps: tuple[float, float]
    layouts: tuple[Layout, Layout]

    @property
    def code(self) -> int:
        """The kernels' number of the activation."""
        return kernels.coded(self.activation)[0]

    def calls(self, saved: _Saved) -> tuple[Call, Call]:
        """The arguments of both calls again."""
        ours, theirs = saved.ours, saved.theirs
        return (
            Call(ours.weight, ours.bias, self.activation, self.eps[0]),
            Call(theirs.weight, theirs.bias, None, self.eps[1]),
        )


class _Context(Context, Protocol):
    options: _Options


class _TrainPair(torch.autograd.Function):
    """Returns y and, where something is recovered, both σ and the packed branch.

    A second derivative reaches the inputs through these, all outputs of this node.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        a: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        b: Tensor,
        other_weight: Tensor | None,
        other_bias: Tensor | None,
        activation: Activation,
        eps: tuple[float, float],
        running: Sequence[kernels.Movable | None],
    ) -> Tensor | tuple[Tensor, ...]:
        own_running, other_running = running
        call = Call(other_weight, other_bias, None, eps[1])
        added, other_statistics, other_bits, other_layout = kernels.forward(
            b, None, call, True, other_running
        )
        call = Call(weight, bias, activation, eps[0])
        y, statistics, bits, layout = kernels.forward(a, added, call, True, own_running)
        if not any(ctx.needs_input_grad):
            return y
        ctx.options = _Options(activation, eps, (layout, other_layout))
        ctx.keeps_output = True
        ctx.set_materialize_grads(False)
        kept = a if bits is None else None
        other_kept = b if other_bits is None else None
        scale, other_scale = statistics[2], other_statistics[2]
        ours = kept, weight, bias, statistics, bits, scale
        theirs = other_kept, other_weight, other_bias, other_statistics, other_bits, other_scale
        if bits is None and other_bits is None:
            ctx.save_for_backward(*ours, *theirs, y, None)
            return y
        packed = kernels.pack_alive(y, added, layout, ctx.options.code)
        ctx.save_for_backward(*ours, *theirs, y, packed)
        return y, scale, other_scale, packed

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, *others = grads
        differentiated = any(g is not None for g in others)
        if grad is None and not differentiated:
            return (None,) * 9
        tensors = ctx.saved_tensors
        saved = _Saved(_Kept(*tensors[:6]), _Kept(*tensors[6:12]), *tensors[12:])
        if grad is None or differentiated or torch.is_grad_enabled() or is_transformed(grad):
            found = _differentiable(ctx.options, (grad, *others), saved)
        else:
            found = _native(ctx.options, grad, saved, ctx.needs_input_grad)
        y, ours, theirs = saved.y, saved.ours, saved.theirs
        targets = y, ours.weight, ours.bias, y, theirs.weight, theirs.bias
        return *formula.cast(found, targets, ctx.needs_input_grad), None, None, None


_Found = tuple[Tensor | None, ...]


def _native(options: _Options, grad: Tensor, saved: _Saved, wanted: tuple[bool, ...]) -> _Found:
    """Gradients of x, weight and bias of both branches."""
    ours, theirs, y, packed = saved
    call, other_call = options.calls(saved)
    layout, other_layout = options.layouts
    added = None if packed is None else kernels.unpack_alive(y, packed, layout, options.code)
    dx, dweight, dbias, g = kernels.backward(
        grad,
        call,
        kernels.Kept(
            layout, ours.statistics, ours.x, ours.bits, None if ours.bits is None else added, y
        ),
        kernels.Wanted(wanted[0], wanted[1] or wanted[2], True),
    )
    assert g is not None  # it was asked for
    other_dx, other_dweight, other_dbias, _ = kernels.backward(
        g,
        other_call,
        kernels.Kept(
            other_layout,
            theirs.statistics,
            theirs.x,
            theirs.bits,
            y=None if theirs.bits is None else added,
        ),
        kernels.Wanted(wanted[3], wanted[4] or wanted[5], False),
        overwrite=True,  # g is of our making
    )
    return dx, dweight, dbias, other_dx, other_dweight, other_dbias


def _differentiable(options: _Options, grads: tuple[Tensor | None, ...], saved: _Saved) -> _Found:
    """The same as operations that autograd differentiates."""
    ours, theirs, y, packed = saved
    layout, other_layout = options.layouts
    call, other_call = options.calls(saved)
    grad, grad_scale, grad_other_scale, grad_packed = (*grads, None, None, None)[:4]
    where = alive(y.detach(), options.activation)
    added = None if packed is None else spread(packed, where, layout)
    grad = torch.zeros_like(y) if grad is None else grad
    own: Gradients
    other: Gradients
    if ours.x is not None:
        own = formula.closed_form_backward(grad, ours.x, y, None, call)
    else:
        output = _output(ours, layout, y, added)
        own = double_backward(grad, grad_scale, output, call)
    dx, dweight, dbias, g = own
    assert g is not None  # double_backward was given a gradient
    if grad_packed is not None:
        g = g + spread(grad_packed.to(g.dtype), where, layout)
    if theirs.x is not None:
        other = formula.closed_form_backward(g, theirs.x, added, None, other_call)
    else:
        assert added is not None  # packed wherever bits are
        output = _output(theirs, other_layout, added, None)
        other = double_backward(g, grad_other_scale, output, other_call)
    return dx, dweight, dbias, *other[:3]


def _output(kept: _Kept, layout: Layout, y: Tensor, residual: Tensor | None) -> SavedOutput:
    assert kept.bits is not None  # kept in the place of x
    return SavedOutput(y, residual, sign_bits(kept.bits, layout, y.shape), kept.scale)


def train_pair(
    first: Branch, second: Branch, activation: Activation, running: Sequence[kernels.Movable | None]
) -> Tensor:
    """Compute ``act(norm(a) + norm(b))`` with batch statistics and move the running ones.

    Args:
        first: input, γ, β and variance floor of the first norm.
        second: those of the second norm.
        activation: ``"relu"`` or ``"relu6"``.
        running: running statistics of both, as the kernels can move them.

    Shape:
        - inputs, Output: ``(N, C, *)``
    """
    y = _TrainPair.apply(
        *(first.input, first.weight, first.bias),
        *(second.input, second.weight, second.bias),
        activation,
        (first.eps, second.eps),
        running,
    )
    return y if isinstance(y, Tensor) else y[0]
