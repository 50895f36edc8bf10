"""The ``cpu`` backend: native kernels, one bit kept per element instead of a tensor.

With an activation, backward needs the output y (which the next layer keeps anyway) and one sign
bit per element: x̂ = (y − residual − β)/γ wherever the activation passes a gradient. Where a γ is
too small for that (:data:`l1bn.ops.cpu_kernels.RECOVERY_LIMIT`), x is kept instead. Without an
activation x is kept, since the output may be edited in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l1bn.ops import cpu_kernels as kernels
from l1bn.ops import formula
from l1bn.ops.cpu_double import double_backward
from l1bn.ops.cpu_layout import sign_bits
from l1bn.ops.running import update_running_statistics
from l1bn.ops.tracing import is_transformed

__all__ = ["BACKEND", "Cpu"]


class _Train(torch.autograd.Function):
    """``scale`` is a differentiable output: a second derivative reaches x through it and y."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: str | None,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        code = kernels.ACTIVATIONS[activation]
        wanted = ctx.needs_input_grad
        differentiable = wanted[0] or wanted[1] or wanted[2] or wanted[3]
        y, parts, scale, bits, layout = kernels.forward(
            x, weight, bias, residual, code, eps, code != 0 and differentiable
        )
        mean = parts[0]
        ctx.mark_non_differentiable(mean)
        ctx.set_materialize_grads(False)
        if differentiable:
            recovered = bits is not None
            ctx.save_for_backward(
                None if recovered else x,
                y if code else None,
                residual if recovered else None,
                bits,
                weight,
                bias,
                parts,
                scale,
            )
            ctx.options = activation, eps, layout, x.shape
        return y, mean, scale

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, _: None, grad_scale: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, y, residual, bits, weight, bias, mean, scale = ctx.saved_tensors
        activation, eps, layout, shape = ctx.options
        if grad_scale is not None or torch.is_grad_enabled():
            sign = None if bits is None else sign_bits(bits, layout, shape)
            return double_backward(
                grad, grad_scale, x, y, residual, sign, weight, bias, mean, scale, activation, eps
            )
        if grad is None:
            return (None,) * 6
        wanted = ctx.needs_input_grad
        out = kernels.backward(
            grad,
            layout,
            y=y,
            x=x,
            residual=residual,
            bits=bits,
            weight=weight,
            bias=bias,
            mean=mean,
            scale=scale,
            activation=kernels.ACTIVATIONS[activation],
            eps=eps,
            wanted=(wanted[0], wanted[1] or wanted[2], wanted[3]),
        )
        return out.dx, _like(out.dweight, weight), _like(out.dbias, bias), out.dresidual, None, None


class _Evaluate(torch.autograd.Function):
    """Keeps the output where there is an activation, and x or y only for γ's own gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: str | None,
        eps: float,
    ) -> Tensor:
        code = kernels.ACTIVATIONS[activation]
        y, mean, scale, recoverable, layout = kernels.evaluate(
            x, running_mean, running_var, weight, bias, residual, code, eps
        )
        keep_x = ctx.needs_input_grad[3] and not (code and recoverable)
        keep_residual = ctx.needs_input_grad[3] and not keep_x
        ctx.save_for_backward(
            x if keep_x else None,
            y if code else None,
            residual if keep_residual else None,
            weight,
            bias,
            mean,
            scale,
        )
        ctx.options = activation, eps, layout
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, residual, weight, bias, mean, scale = ctx.saved_tensors
        activation, eps, layout = ctx.options
        if torch.is_grad_enabled():
            dx, dweight, dbias, dresidual, _, _ = double_backward(
                *(grad, None, x, y, residual, None, weight, bias, mean, scale, activation, eps),
                frozen=True,
            )
            return dx, None, None, dweight, dbias, dresidual, None, None
        wanted = ctx.needs_input_grad
        out = kernels.backward(
            grad,
            layout,
            y=y,
            x=x,
            residual=residual,
            bits=None,
            weight=weight,
            bias=bias,
            mean=mean,
            scale=scale,
            activation=kernels.ACTIVATIONS[activation],
            eps=eps,
            wanted=(wanted[0], wanted[3] or wanted[4], wanted[5]),
            frozen=True,
        )
        dweight = _like(out.dweight, weight) if wanted[3] else None
        return out.dx, None, None, dweight, _like(out.dbias, bias), out.dresidual, None, None


def _like(gradient: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    if gradient is None or parameter is None:
        return None
    return gradient if gradient.dtype == parameter.dtype else gradient.to(parameter.dtype)


class Cpu:
    """Serves dense and strided CPU tensors of the four floating-point formats."""

    name = "cpu"

    def unavailable(self) -> str | None:
        """Why the library cannot be loaded, or None."""
        return kernels.NATIVE if isinstance(kernels.NATIVE, str) else None

    def unsupported(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None
    ) -> str | None:
        """Why these tensors cannot be served, or None."""
        if not x.is_cpu:
            return f"it takes CPU tensors, got {x.device}"
        if x.dtype not in kernels.DTYPES:
            return f"it takes float32, bfloat16, float16 and float64, got {x.dtype}"
        dtypes = {v.dtype for v in (weight, bias) if v is not None}
        if len(dtypes) > 1 or not dtypes <= kernels.DTYPES.keys():
            return f"weight and bias need one floating-point dtype, got {sorted(map(str, dtypes))}"
        return None

    def train(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: str | None,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize with batch statistics, see :class:`l1bn.ops.registry.Backend`."""
        if is_transformed(x):
            return formula.train(x, weight, bias, residual, activation, eps)
        y, mean, scale = _Train.apply(x, weight, bias, residual, activation, eps)
        return y, mean, scale.detach() if scale.requires_grad else scale

    def evaluate(
        self,
        x: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: str | None,
        eps: float,
    ) -> Tensor:
        """Normalize with running statistics, see :class:`l1bn.ops.registry.Backend`."""
        plain = activation is None and residual is None
        if plain or is_transformed(x) or running_mean.dtype != running_var.dtype:
            return formula.evaluate(
                x, running_mean, running_var, weight, bias, residual, activation, eps
            )
        return _Evaluate.apply(
            x, running_mean, running_var, weight, bias, residual, activation, eps
        )

    def update_running(
        self,
        running_mean: Tensor,
        running_var: Tensor,
        mean: Tensor,
        scale: Tensor,
        count: int,
        momentum: float | Tensor,
        eps: float,
    ) -> None:
        """Move running statistics in place, see :class:`l1bn.ops.registry.Backend`."""
        if isinstance(momentum, Tensor):
            update_running_statistics(running_mean, running_var, mean, scale, count, momentum, eps)
            return
        native = (
            running_mean.dtype == running_var.dtype
            and running_mean.is_contiguous()
            and running_var.is_contiguous()
            and not is_transformed(running_mean)
        )
        update = kernels.update_running if native else update_running_statistics
        update(running_mean, running_var, mean, scale, count, momentum, eps)


BACKEND = Cpu()
