"""Backward from the output as differentiable operations, for a second derivative.

Where x is not kept: x̂ enters the first derivative only where the activation passes a gradient,
where it is a function of y, and in σ. So ``y`` and ``scale``, both outputs of the same node, carry
every dependence on x, for a derivative that most training never asks for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.activation import inverse, passed
from l1bn.ops.formula import (
    above_floor,
    gain,
    input_gradient,
    per_channel,
    reduce_dims,
    through,
)
from l1bn.ops.records import Call, SavedOutput

#: Of x, weight, bias and residual.
Gradients = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]


def double_backward(
    grad: Tensor | None, grad_scale: Tensor | None, output: SavedOutput, call: Call
) -> Gradients:
    """Gradients of ``(y, scale)`` with respect to x, weight, bias and residual.

    Args:
        grad: gradient of ``y``.
        grad_scale: gradient of ``scale``, which a second derivative asks for.
        output: ``y``, ``scale`` and what else stands for x.
        call: arguments of the forward call.
    """
    y, _, positive, scale = output
    dims, count = reduce_dims(y), y.numel() // y.shape[1]
    sign = positive.to(scale.dtype) * 2 - 1
    scale_gradient = torch.zeros_like(scale) if grad_scale is None else grad_scale
    factor = gain(call.weight, scale)
    if grad is None:
        g, dbias, dweight = torch.zeros_like(sign), None, None
    else:
        g = grad.to(scale.dtype)
        if call.activation is not None:
            g = passed(g, y.to(g.dtype), call.activation)
        dbias = g.sum(dims)
        dweight = _recovered(g, y, output.residual, scale, call)
        scale_gradient = scale_gradient - factor * dweight
    dx = input_gradient(
        g,
        sign,
        sign.mean(dims),
        factor=factor,
        mean_gradient=torch.zeros_like(scale) if dbias is None else dbias / count,
        scale_gradient=scale_gradient / count * above_floor(scale, call.eps),
    )
    return dx, dweight, dbias, None if grad is None else g


def frozen_backward(
    grad: Tensor,
    x: Tensor | None,
    y: Tensor | None,
    residual: Tensor | None,
    statistics: Tensor,
    call: Call,
) -> Gradients:
    """Gradients with constant statistics; 0 for γ where neither x nor y is kept for it.

    Args:
        grad: gradient of the output.
        x: input, where it is kept.
        y: output, there with an activation that is read off it.
        residual: residual, kept where x̂ is recovered from ``y``, or z from ``x``.
        statistics: mean in two parts, and σ.
        call: arguments of the forward call.
    """
    scale, activation = statistics[2], call.activation
    dims = reduce_dims(grad)
    g = grad.to(scale.dtype)
    centred = None if x is None else x.to(scale.dtype) - per_channel(statistics[0], x)
    if activation is not None and y is not None:
        g = passed(g, y.to(g.dtype), activation)
    elif centred is not None:
        g = through(g, None, centred, scale, residual, call)
    if centred is not None:
        dweight = (g * centred).sum(dims) / scale
    elif y is not None:
        dweight = _recovered(g, y, residual, scale, call)
    else:
        dweight = torch.zeros_like(scale)
    dx = per_channel(gain(call.weight, scale), grad) * g
    return dx.to(grad.dtype), dweight, g.sum(dims), g.to(grad.dtype)


def _recovered(g: Tensor, y: Tensor, residual: Tensor | None, scale: Tensor, call: Call) -> Tensor:
    """Σ g·x̂ with x̂ = (z − residual − β)/γ, and z from y."""
    weight, bias = call.weight, call.bias
    z = inverse(y.to(scale.dtype), call.activation)
    if residual is not None:
        z = z - residual.to(scale.dtype)
    if bias is not None:
        z = z - per_channel(bias.to(scale.dtype), y)
    product = (g * z).sum(reduce_dims(y))
    return product if weight is None else product / weight.to(scale.dtype)
