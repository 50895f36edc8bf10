"""L1BN as traceable, differentiable PyTorch.

What ``torch.compile`` fuses, what functorch transforms see, and what every backend uses for a
second derivative. Low-precision inputs are computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from l1bn.activation import activate, activate_over, clips, passed, slope
from l1bn.ops.records import Call, Running
from l1bn.ops.tracing import is_traced

K = math.sqrt(math.pi / 2)


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which ``dtype`` is computed: float32 for the 16-bit formats."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def reduce_dims(x: Tensor) -> list[int]:
    """Every dimension but the channel's."""
    return [0, *range(2, x.dim())]


def cast(
    gradients: Sequence[Tensor | None], like: Sequence[Tensor | None], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients in the dtypes of what they belong to, None where not wanted."""
    # A cast to the same dtype is a call too, and on a small input calls are what costs.
    return [
        None if v is None or t is None or not want else v if v.dtype is t.dtype else v.to(t.dtype)
        for v, t, want in zip(gradients, like, wanted, strict=False)
    ]


def per_channel(v: Tensor, x: Tensor) -> Tensor:
    """View a ``(C,)`` tensor so that it broadcasts over ``x``."""
    return v.view(1, -1, *[1] * (x.dim() - 2))


def gain(weight: Tensor | None, scale: Tensor) -> Tensor:
    """``γ/σ`` of each channel, in the dtype of ``scale``."""
    return scale.reciprocal() if weight is None else weight.to(scale.dtype) / scale


def pre_activation(centred: Tensor, scale: Tensor, residual: Tensor | None, call: Call) -> Tensor:
    """``γ·d/σ + β + residual`` of equations (3) and (4)."""
    z = centred * per_channel(gain(call.weight, scale), centred)
    if call.bias is not None:
        z = z + per_channel(call.bias.to(scale.dtype), centred)
    return z if residual is None else z + residual.to(scale.dtype)


def affine(
    centred: Tensor, scale: Tensor, residual: Tensor | None, call: Call, dtype: torch.dtype
) -> Tensor:
    """Equations (3) and (4): ``act(γ·d/σ + β + residual)`` rounded once, to ``dtype``."""
    z = pre_activation(centred, scale, residual, call)
    return activate(z, call.activation).to(dtype)


def statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Differentiable ``(centred, sign, mean, scale)`` of equations (1) and (2).

    ``|d|`` is written as ``d·b`` with the bit ``b`` constant, so that autograd gives the
    gradient of the definition also where ``d`` is 0.
    """
    x = x.to(accumulate_dtype(x.dtype))
    dims = reduce_dims(x)
    mean = x.mean(dims)
    centred = x - per_channel(mean, x)
    sign = torch.where(centred.detach() >= 0, 1.0, -1.0).to(x.dtype)
    deviation = K * (centred * sign).mean(dims)
    floor = math.sqrt(eps)
    # `<=` keeps a NaN deviation visible; a maximum written with `>` would hide it.
    scale = torch.where(deviation <= floor, torch.full_like(deviation, floor), deviation)
    return centred, sign, mean, scale


def train(x: Tensor, residual: Tensor | None, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Training forward pass as a composition that autograd differentiates.

    Returns:
        ``(y, mean, scale)``; the last two detached, in the accumulation dtype.
    """
    centred, _, mean, scale = statistics(x, call.eps)
    y = affine(centred, scale, residual, call, x.dtype)
    return y, mean.detach(), scale.detach()


def evaluate(x: Tensor, residual: Tensor | None, call: Call, running: Running) -> Tensor:
    """Evaluation: ``F.batch_norm``, then residual and activation."""
    # The gradient of F.batch_norm is wrong for vectors with gaps (torch 2.13, CPU).
    state = running.mean.contiguous(), running.var.contiguous()
    weight = None if call.weight is None else call.weight.contiguous()
    bias = None if call.bias is None else call.bias.contiguous()
    y = torch.nn.functional.batch_norm(x, *state, weight, bias, False, 0.0, call.eps)
    if torch.is_grad_enabled() or is_traced() or torch.compiler.is_compiling():
        return activate(y if residual is None else y + residual, call.activation)
    return activate_over(y if residual is None else y.add_(residual), call.activation)


def closed_form_backward(
    grad: Tensor, x: Tensor, y: Tensor | None, residual: Tensor | None, call: Call
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First derivative as differentiable operations on the other tensors.

    Statistics are computed again from ``x``, so that a second derivative reaches it. ``y`` is read
    under an activation that clips, β and ``residual`` under any other.

    Returns:
        ``(dx, dweight, dbias, dz)`` in the accumulation dtype.
    """
    centred, sign, _, scale = statistics(x, call.eps)
    g = through(grad, y, centred, scale, residual, call)
    return gradients(g, centred, sign, scale, call)


def through(
    grad: Tensor,
    y: Tensor | None,
    centred: Tensor,
    scale: Tensor,
    residual: Tensor | None,
    call: Call,
) -> Tensor:
    """Equation (5), the gradient of z, where x is there; arguments as ``closed_form_backward``."""
    g = grad.to(centred.dtype)
    if call.activation is None:
        return g
    if y is not None and clips(call.activation):
        return passed(g, y.detach(), call.activation)
    return g * slope(pre_activation(centred, scale, residual, call), call.activation)


def gradients(
    g: Tensor, centred: Tensor, sign: Tensor, scale: Tensor, call: Call
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Equations (6) to (8) from the gradient of z, the centred input, its sign and the scale."""
    dims = reduce_dims(centred)
    count = centred.numel() // centred.shape[1]
    dbias = g.sum(dims)
    dweight = (g * centred).sum(dims) / scale
    factor = gain(call.weight, scale)
    dx = input_gradient(
        g,
        sign,
        sign.mean(dims),
        factor=factor,
        mean_gradient=dbias / count,
        scale_gradient=-factor * dweight / count * above_floor(scale, call.eps),
    )
    return dx, dweight, dbias, g


def above_floor(scale: Tensor, eps: float) -> Tensor:
    """1 where σ lies above its floor, so that a gradient reaches it, else 0."""
    return (scale.detach() > math.sqrt(eps)).to(scale.dtype)


def input_gradient(
    g: Tensor,
    sign: Tensor,
    mean_sign: Tensor,
    *,
    factor: Tensor,
    mean_gradient: Tensor,
    scale_gradient: Tensor,
) -> Tensor:
    """Equation (8), with dL/dσ written out: ``γ/σ·(g − mean g) + k/M·dL/dσ·(b − b̄)``.

    Args:
        g: Gradient that the activation passes.
        sign: b, 1 or −1.
        mean_sign: b̄.
        factor: γ/σ.
        mean_gradient: ``dβ/M``.
        scale_gradient: ``1/M·dL/dσ``, 0 where σ is held by its floor. Through y alone it is
            ``−γ/σ·dγ/M``.

    Shape:
        - g, sign, output: ``(N, C, *)``
        - the others: ``(C,)``
    """
    through_scale = per_channel(K * scale_gradient, g) * (sign - per_channel(mean_sign, g))
    return per_channel(factor, g) * (g - per_channel(mean_gradient, g)) + through_scale
