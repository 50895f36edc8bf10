"""The ``eager`` backend: plain PyTorch on any device, saving no more than BatchNorm does."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from l1bn.activation import DESCRIPTIONS, Activation, clips
from l1bn.ops import formula, frozen
from l1bn.ops.eager import node
from l1bn.ops.records import Call, Context, Running
from l1bn.ops.running import update_running_statistics
from l1bn.ops.tracing import is_transformed


class _Context(Context, Protocol):
    options: tuple[Activation, float]


class _Train(torch.autograd.Function):
    """For activations that bend: keeps what goes into z, and computes z again."""

    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: Activation,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        call = Call(weight, bias, activation, eps)
        wide = x.to(formula.accumulate_dtype(x.dtype))
        dims = formula.reduce_dims(x)
        mean = wide.mean(dims)
        centred = wide - formula.per_channel(mean, x)
        scale = (formula.K * centred.abs().mean(dims)).clamp_min(math.sqrt(eps))
        y = formula.affine(centred, scale, residual, call, x.dtype)
        ctx.save_for_backward(x, weight, mean, scale, bias, residual)
        ctx.options = activation, eps
        ctx.mark_non_differentiable(mean, scale)
        ctx.set_materialize_grads(False)
        return y, mean, scale

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        if grad is None:
            return (None,) * 6
        x, weight, mean, scale, bias, residual = ctx.saved_tensors
        call = Call(weight, bias, *ctx.options)
        found: tuple[Tensor | None, ...]
        if torch.is_grad_enabled():
            found = formula.closed_form_backward(grad, x, None, residual, call)
        else:
            centred = x.to(mean.dtype) - formula.per_channel(mean, x)
            sign = torch.where(centred >= 0, 1.0, -1.0).to(mean.dtype)
            g = formula.through(grad, None, centred, scale, residual, call)
            found = formula.gradients(g, centred, sign, scale, call)
        like = x, weight, bias, residual
        return *formula.cast(found, like, ctx.needs_input_grad), None, None


class Eager:
    """Serves every device and dtype, and whatever traces or transforms the call."""

    name = "eager"
    activations = frozenset(DESCRIPTIONS)

    def unavailable(self) -> str | None:
        """Never: it needs PyTorch only."""
        return None

    def unsupported(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None
    ) -> str | None:
        """Never: it takes every floating-point tensor."""
        return None

    def train(
        self, x: Tensor, residual: Tensor | None, call: Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize with batch statistics, see ``l1bn.ops.registry.Backend``."""
        if is_transformed(x):
            return formula.train(x, residual, call)
        weight, bias, activation, eps = call
        if activation is None or clips(activation):
            return node.train(x, residual, call)
        return _Train.apply(x, weight, bias, residual, activation, eps)

    def evaluate(self, x: Tensor, residual: Tensor | None, call: Call, running: Running) -> Tensor:
        """Normalize with running statistics, see ``l1bn.ops.registry.Backend``."""
        return frozen.composed(x, residual, call, running)

    def train_and_update(
        self, x: Tensor, residual: Tensor | None, call: Call, running: Running
    ) -> Tensor:
        """Normalize and move the running statistics, see ``l1bn.ops.registry.Backend``."""
        y, mean, scale = self.train(x, residual, call)
        update_running_statistics(running, mean, scale, x.numel() // x.shape[1], call.eps)
        return y


BACKEND = Eager()
