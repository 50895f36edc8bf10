"""Backward of the ``cpu`` backend as differentiable operations, for a second derivative.

x̂ enters the first derivative only where the activation passes a gradient, where it is a function
of y, and in σ. So ``y`` and ``scale``, both outputs of the same node, carry every dependence on x,
and x itself need not be kept for a derivative that most training never asks for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from l1bn.ops.formula import K, alive, per_channel, reduce_dims

__all__ = ["double_backward"]


def double_backward(
    grad: Tensor | None,
    grad_scale: Tensor | None,
    x: Tensor | None,
    y: Tensor | None,
    residual: Tensor | None,
    positive: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    scale: Tensor,
    activation: str | None,
    eps: float,
    frozen: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of ``(y, scale)`` with respect to x, weight, bias and residual.

    Args:
        grad: gradient of ``y``.
        grad_scale: gradient of ``scale``, which a second derivative asks for.
        x: input, or None where x̂ is recovered from ``y``.
        y: output, there with an activation.
        residual: needed where x̂ is recovered.
        positive: where x was at least its mean, needed where x̂ is recovered.
        weight: γ.
        bias: β.
        mean: mean of the batch in two parts, of shape (2, C).
        scale: σ of the batch.
        activation: ``None``, ``"relu"`` or ``"relu6"``.
        eps: variance floor.
        frozen: ``mean`` and ``scale`` are constants.
    """
    like = next(v for v in (x, y, grad) if v is not None)
    dims, count = reduce_dims(like), like.numel() // like.shape[1]
    if frozen:
        assert grad is not None
        g = _masked(grad, y, activation, scale.dtype)
        return _pack(
            per_channel(_factor(weight, scale), like) * g,
            _grad_weight(g, x, y, residual, weight, bias, scale, dims, mean),
            g.sum(dims),
            g,
            like,
            weight,
            bias,
        )
    live = (scale.detach() > math.sqrt(eps)).to(scale.dtype)
    if x is not None:
        positive = x.detach().to(mean.dtype) - per_channel(mean[0], x) >= per_channel(mean[1], x)
    if positive is None:
        raise RuntimeError("sign bits are needed where the input is not kept")
    sign = positive.to(scale.dtype) * 2 - 1
    bit = sign - per_channel(sign.mean(dims), like)
    through_scale = torch.zeros_like(scale) if grad_scale is None else grad_scale * (K / count)
    if grad is None:
        dx = per_channel(through_scale * live, like) * bit
        return dx.to(like.dtype), None, None, None, None, None
    g = _masked(grad, y, activation, scale.dtype)
    factor = _factor(weight, scale)
    dbias = g.sum(dims)
    dweight = _grad_weight(g, x, y, residual, weight, bias, scale, dims)
    through_scale = through_scale - factor * dweight * (K / count)
    dx = per_channel(factor, like) * (g - per_channel(dbias / count, like))
    dx = dx + per_channel(through_scale * live, like) * bit
    return _pack(dx, dweight, dbias, g, like, weight, bias)


def _masked(grad: Tensor, y: Tensor | None, activation: str | None, dtype: torch.dtype) -> Tensor:
    g = grad.to(dtype)
    if activation is None or y is None:
        return g
    return torch.where(alive(y.detach(), activation), g, 0.0)


def _factor(weight: Tensor | None, scale: Tensor) -> Tensor:
    return scale.reciprocal() if weight is None else weight.to(scale.dtype) / scale


def _pack(
    dx: Tensor,
    dweight: Tensor,
    dbias: Tensor,
    g: Tensor,
    like: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor | None, ...]:
    return (
        dx.to(like.dtype),
        None if weight is None else dweight.to(weight.dtype),
        None if bias is None else dbias.to(bias.dtype),
        g.to(like.dtype),
        None,
        None,
    )


def _grad_weight(
    g: Tensor,
    x: Tensor | None,
    y: Tensor | None,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor,
    dims: list[int],
    mean: Tensor | None = None,
) -> Tensor:
    """Σ g·x̂, from x where it is kept and from y elsewhere; 0 where neither is."""
    if x is not None:
        wide = x.to(scale.dtype)
        # Without a constant mean its derivative is that of x: it is computed again.
        centre = wide.mean(dims) if mean is None else mean[0]
        return (g * (wide - per_channel(centre, x))).sum(dims) / scale
    if y is None:
        return torch.zeros_like(scale)
    z = y.to(scale.dtype)
    if residual is not None:
        z = z - residual.to(scale.dtype)
    if bias is not None:
        z = z - per_channel(bias.to(scale.dtype), y)
    product = (g * z).sum(dims)
    return product if weight is None else product / weight.to(scale.dtype)
