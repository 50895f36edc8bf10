r"""The mathematics of L1-norm batch normalization in plain PyTorch: the judge of every backend.

Written to be read beside ``docs/mathematics.md``, whose equation numbers it uses. Nothing here is
fast: each function computes at the precision of its arguments, so float64 in means float64
throughout, and the gradient is the closed form and not autograd's. Tests, benchmarks and docs
import this file; no kernel does.

With ``M`` elements per channel and ``k = √(π/2)``, per channel:

.. math::
    \mu &= \mathrm{mean}(x), \quad d = x - \mu                            & (1) \\
    s &= k \cdot \mathrm{mean}|d|, \quad \sigma = \max(s, \sqrt\epsilon)  & (2) \\
    \hat x &= d / \sigma                                                  & (3) \\
    z &= \gamma \hat x + \beta, \quad y = \mathrm{act}(z + r)             & (4)

Source: Wu et al., *L1-Norm Batch Normalization for Efficient Training of Deep Neural Networks*,
IEEE TNNLS 2019, arXiv:1802.09769. The term b̄ of equation (8), which the paper's early
code leaves out, makes the gradient exact on skewed data.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from l1bn.activation import Activation, activate, slope

#: k = sqrt(pi / 2): standard deviation over mean absolute deviation of a Gaussian.
K = math.sqrt(math.pi / 2)


class Statistics(NamedTuple):
    """Per-channel statistics of equations (1) and (2).

    Shape:
        - all but ``sign``: ``(C,)``
        - ``sign``: the input's, +1 where ``x >= mean`` and -1 elsewhere
    """

    mean: Tensor
    deviation: Tensor
    scale: Tensor
    sign: Tensor


class Gradients(NamedTuple):
    """Gradients of equations (6) to (8); ``None`` where there is no such input.

    Shape:
        - input, residual: ``(N, C, *)``
        - weight, bias: ``(C,)``
    """

    input: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor | None


def _per_channel(v: Tensor, x: Tensor) -> Tensor:
    return v.view(1, -1, *[1] * (x.dim() - 2))


def _mean(v: Tensor) -> Tensor:
    return v.mean(dim=[0, *range(2, v.dim())])


def _sum(v: Tensor) -> Tensor:
    return v.sum(dim=[0, *range(2, v.dim())])


def statistics(x: Tensor, eps: float) -> Statistics:
    """Compute mean, deviation, scale and sign bit: equations (1) and (2).

    Args:
        x: input.
        eps: variance floor, as in ``nn.BatchNorm``.

    Shape:
        - x: ``(N, C, *)``
    """
    mean = _mean(x)
    d = x - _per_channel(mean, x)
    deviation = K * _mean(d.abs())
    scale = deviation.clamp_min(math.sqrt(eps))
    sign = torch.where(d >= 0, torch.ones_like(d), -torch.ones_like(d))
    return Statistics(mean, deviation, scale, sign)


def _pre_activation(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, stats: Statistics
) -> Tensor:
    normalized = (x - _per_channel(stats.mean, x)) / _per_channel(stats.scale, x)
    z = _per_channel(weight, x) * normalized + _per_channel(bias, x)
    return z if residual is None else z + residual


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Statistics]:
    """Normalize with batch statistics: equations (1) to (4).

    Args:
        x: input.
        weight: γ.
        bias: β.
        residual: added before the activation.
        activation: ``None`` or one of ``l1bn.activation``.
        eps: variance floor.

    Shape:
        - x, residual, output: ``(N, C, *)``
        - weight, bias: ``(C,)``
    """
    stats = statistics(x, eps)
    return activate(_pre_activation(x, weight, bias, residual, stats), activation), stats


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    eps: float = 1e-5,
) -> Gradients:
    """Exact gradients in closed form: equations (5) to (8).

    Args:
        grad: gradient of the loss with respect to the output.
        x: input of the forward pass; the other arguments as in ``forward``.
        weight: γ.
        bias: β.
        residual: added before the activation.
        activation: ``None`` or one of ``l1bn.activation``.
        eps: variance floor.

    Shape:
        - grad, x, residual: ``(N, C, *)``
        - weight, bias: ``(C,)``
    """
    stats = statistics(x, eps)
    count = x.numel() // x.shape[1]
    z = _pre_activation(x, weight, bias, residual, stats)
    g = grad * slope(z, activation)  # (5)
    normalized = (x - _per_channel(stats.mean, x)) / _per_channel(stats.scale, x)
    grad_bias = _sum(g)  # (6)
    grad_weight = _sum(g * normalized)  # (7)
    live = (stats.deviation > math.sqrt(eps)).to(x.dtype)
    centred_sign = stats.sign - _per_channel(_mean(stats.sign), x)
    through_scale = K * centred_sign * _per_channel(grad_weight / count * live, x)
    grad_input = _per_channel(weight / stats.scale, x) * (
        g - _per_channel(grad_bias / count, x) - through_scale
    )  # (8)
    return Gradients(grad_input, grad_weight, grad_bias, None if residual is None else g)


def running_update(
    running_mean: Tensor,
    running_var: Tensor,
    stats: Statistics,
    count: int,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Moving averages in BatchNorm's own form: equation (9).

    ``running_var + eps`` is the square of the training denominator, up to the factor
    ``M/(M - 1)`` that BatchNorm applies too. A channel keeps its averages where the statistics
    of the batch, or the new averages, are not finite.

    Args:
        running_mean: moving average of the mean.
        running_var: moving average of ``(σ² - ε)·M/(M - 1)``.
        stats: statistics of the batch.
        count: elements per channel, ``M``.
        momentum: weight of the new value.
        eps: variance floor.

    Returns:
        The new averages; the arguments are not changed.

    Shape:
        - running_mean, running_var: ``(C,)``
    """
    var = (stats.scale**2 - eps).clamp_min(0) * (count / (count - 1))
    new_mean = (1 - momentum) * running_mean + momentum * stats.mean
    new_var = (1 - momentum) * running_var + momentum * var
    finite = stats.mean.isfinite() & var.isfinite() & new_mean.isfinite() & new_var.isfinite()
    return (
        torch.where(finite, new_mean, running_mean),
        torch.where(finite, new_var, running_var),
    )


def recover_normalized(
    y: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None
) -> Tensor:
    r"""Recover x̂ from the output where the activation passes it: equation (10).

    Exact where ``act' ≠ 0`` and γ is not small against the scale of ``y``; elsewhere the
    value is not x̂ and must not be used.

    Args:
        y: output of ``forward``.
        weight: γ, not 0.
        bias: β.
        residual: the tensor added before the activation.

    Shape:
        - y, residual: ``(N, C, *)``
        - weight, bias: ``(C,)``
    """
    z = y if residual is None else y - residual
    return (z - _per_channel(bias, y)) / _per_channel(weight, y)
