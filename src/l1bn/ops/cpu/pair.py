"""act(norm(a) + norm(b)) of the ``cpu`` backend: where two branches of a residual block meet.

A gradient passes only where the output y is alive, and there the two normalized branches add up to
y. So beside y, which the next layer keeps anyway, and one bit per element of each branch, it is
enough to keep one normalized branch where y is alive: half a tensor, where BatchNorm keeps two. A
branch from which x̂ cannot be recovered (``l1bn.ops.cpu.kernels.RECOVERY_LIMIT``) keeps its x.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from l1bn.activation import Activation, alive
from l1bn.ops import formula
from l1bn.ops.cpu import kernels
from l1bn.ops.cpu.layout import Layout, sign_bits, spread
from l1bn.ops.second_derivative import Gradients, double_backward
from l1bn.ops.tracing import is_transformed


class _Branch(NamedTuple):
    """What backward has of one branch: ``x``, or ``bits`` in its place."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    statistics: Tensor
    bits: Tensor | None
    scale: Tensor


class _TrainPair(torch.autograd.Function):
    """Returns y and, where something is recovered, both σ and the packed branch.

    A second derivative reaches the inputs through these, all outputs of this node.
    """

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        b: Tensor,
        other_weight: Tensor | None,
        other_bias: Tensor | None,
        activation: Activation,
        eps: tuple[float, float],
        running: tuple[kernels.Running | None, kernels.Running | None],
    ) -> Tensor | tuple[Tensor, ...]:
        code = kernels.ACTIVATIONS[activation]
        call = kernels.Call(other_weight, other_bias, 0, eps[1])
        added, other_statistics, other_bits, other_layout = kernels.forward(
            b, None, call, True, running[1]
        )
        call = kernels.Call(weight, bias, code, eps[0])
        y, statistics, bits, layout = kernels.forward(a, added, call, True, running[0])
        if not any(ctx.needs_input_grad):
            return y
        ctx.options = code, activation, eps, (layout, other_layout)
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
        packed = kernels.pack_alive(y, added, layout, code)
        ctx.save_for_backward(*ours, *theirs, y, packed)
        return y, scale, other_scale, packed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, *others = grads
        differentiated = any(g is not None for g in others)
        if grad is None and not differentiated:
            return (None,) * 9
        saved = ctx.saved_tensors
        ours, theirs = _Branch(*saved[:6]), _Branch(*saved[6:12])
        y, packed = saved[12:]
        if grad is None or differentiated or torch.is_grad_enabled() or is_transformed(grad):
            found = _differentiable(ctx.options, (grad, *others), ours, theirs, y, packed)
        else:
            found = _native(ctx.options, grad, ours, theirs, y, packed, ctx.needs_input_grad)
        targets = y, ours.weight, ours.bias, y, theirs.weight, theirs.bias
        return *formula.cast(found, targets, ctx.needs_input_grad), None, None, None


_Found = tuple[Tensor | None, ...]
_Options = tuple[int, Activation, tuple[float, float], tuple[Layout, Layout]]


def _native(
    options: _Options,
    grad: Tensor,
    ours: _Branch,
    theirs: _Branch,
    y: Tensor,
    packed: Tensor | None,
    wanted: tuple[bool, ...],
) -> _Found:
    """Gradients of x, weight and bias of both branches."""
    code, _, eps, (layout, other_layout) = options
    added = None if packed is None else kernels.unpack_alive(y, packed, layout, code)
    dx, dweight, dbias, g = kernels.backward(
        grad,
        kernels.Call(ours.weight, ours.bias, code, eps[0]),
        kernels.Kept(
            layout, ours.statistics, ours.x, ours.bits, None if ours.bits is None else added, y
        ),
        kernels.Wanted(wanted[0], wanted[1] or wanted[2], True),
    )
    assert g is not None  # it was asked for
    other_dx, other_dweight, other_dbias, _ = kernels.backward(
        g,
        kernels.Call(theirs.weight, theirs.bias, 0, eps[1]),
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


def _differentiable(
    options: _Options,
    grads: tuple[Tensor | None, ...],
    ours: _Branch,
    theirs: _Branch,
    y: Tensor,
    packed: Tensor | None,
) -> _Found:
    """The same as operations that autograd differentiates."""
    _, activation, eps, layouts = options
    grad, grad_scale, grad_other_scale, grad_packed = (*grads, None, None, None)[:4]
    where = alive(y.detach(), activation)
    added = None if packed is None else spread(packed, where, layouts[0])
    grad = torch.zeros_like(y) if grad is None else grad
    sign = sign_bits(ours.bits, layouts[0], y.shape) if ours.bits is not None else None
    dx, dweight, dbias, g = _branch(grad, grad_scale, ours, sign, y, added, activation, eps[0])
    assert g is not None  # double_backward was given a gradient
    if grad_packed is not None:
        g = g + spread(grad_packed.to(g.dtype), where, layouts[0])
    sign = sign_bits(theirs.bits, layouts[1], y.shape) if theirs.bits is not None else None
    other = _branch(g, grad_other_scale, theirs, sign, added, None, None, eps[1])
    return dx, dweight, dbias, *other[:3]


def _branch(
    grad: Tensor,
    grad_scale: Tensor | None,
    branch: _Branch,
    sign: Tensor | None,
    y: Tensor | None,
    residual: Tensor | None,
    activation: Activation | None,
    eps: float,
) -> Gradients:
    if branch.x is not None:
        return formula.closed_form_backward(grad, branch.x, y, branch.weight, activation, eps)
    assert y is not None  # packed wherever bits are
    assert sign is not None
    return double_backward(
        grad, grad_scale, y, residual, sign, branch.weight, branch.bias, branch.scale,
        activation, eps,
    )  # fmt: skip


def train_pair(
    a: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    b: Tensor,
    other_weight: Tensor | None,
    other_bias: Tensor | None,
    activation: Activation,
    eps: tuple[float, float],
    running: tuple[kernels.Running | None, kernels.Running | None],
) -> Tensor:
    """Compute ``act(norm(a) + norm(b))`` with batch statistics and move the running ones.

    Args:
        a: input of the first norm.
        weight: its γ.
        bias: its β.
        b: input of the second norm, like ``a``.
        other_weight: its γ.
        other_bias: its β.
        activation: ``"relu"`` or ``"relu6"``.
        eps: variance floors of both.
        running: running statistics of both.

    Shape:
        - a, b, Output: ``(N, C, *)``
        - weight, bias, other_weight, other_bias: ``(C,)``
    """
    y = _TrainPair.apply(a, weight, bias, b, other_weight, other_bias, activation, eps, running)
    return y if isinstance(y, Tensor) else y[0]
