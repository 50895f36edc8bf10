"""The native kernels as ``torch.library`` operators, for compilers and exporters.

In eager mode ``l1bn.ops.cpu.backend`` calls the kernels directly: the dispatcher costs as much
as a layer on a small input. What traces a call sees these operators, functional and with fake
kernels; their backward keeps x, since whether x̂ can be recovered is known only once there are
values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l1bn.ops.cpu import kernels
from l1bn.ops.cpu.layout import like, to_layout


@torch.library.custom_op("l1bn::cpu_forward", mutates_args=(), device_types="cpu")
def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Normalize with batch statistics; returns y, and the mean in two parts with σ.

    Shape:
        - x, residual, y: ``(N, C, *)``
        - statistics: ``(3, C)``
    """
    call = kernels.Call(weight, bias, activation, eps)
    y, statistics, _, _ = kernels.forward(x, residual, call, False, None)
    return y, statistics


@forward.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    residual: Tensor | None,  # noqa: ARG001
    activation: int,  # noqa: ARG001
    eps: float,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return like(x), x.new_empty((3, x.shape[1]), dtype=wide)


@torch.library.custom_op("l1bn::cpu_backward", mutates_args=(), device_types="cpu")
def backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``forward``: dx, dγ, dβ and the residual's."""
    _, layout = to_layout(x)
    dx, dweight, dbias, dresidual = kernels.backward(
        grad,
        kernels.Call(weight, bias, activation, eps),
        kernels.Kept(layout, statistics, x, y=y),
        kernels.Wanted(),
    )
    assert dx is not None  # all were asked for
    assert dweight is not None
    assert dbias is not None
    assert dresidual is not None
    return dx, dweight, dbias, dresidual.clone() if dresidual is grad else dresidual


@backward.register_fake
def _(
    grad: Tensor,  # noqa: ARG001
    x: Tensor,
    y: Tensor,  # noqa: ARG001
    statistics: Tensor,
    weight: Tensor | None,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    activation: int,  # noqa: ARG001
    eps: float,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels = statistics.new_empty(x.shape[1])
    return like(x), channels, torch.empty_like(channels), like(x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, residual, activation, eps = inputs
    ctx.save_for_backward(x, output[0], output[1], weight, bias)
    ctx.options = activation, eps, residual is not None


def _differentiate(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    x, y, statistics, weight, bias = ctx.saved_tensors
    activation, eps, with_residual = ctx.options
    dx, dweight, dbias, dresidual = backward(grad, x, y, statistics, weight, bias, activation, eps)
    return (
        dx,
        None if weight is None else dweight.to(weight.dtype),
        None if bias is None else dbias.to(bias.dtype),
        dresidual if with_residual else None,
        None,
        None,
    )


forward.register_autograd(_differentiate, setup_context=_setup)
