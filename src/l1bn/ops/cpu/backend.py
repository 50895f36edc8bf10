"""The ``cpu`` backend: native kernels, one bit kept per element instead of a tensor.

With an activation, backward needs the output y (which the next layer keeps anyway) and one sign
bit per element: x̂ = (y − residual − β)/γ wherever the activation passes a gradient. Where a γ is
too small for that (:data:`l1bn.ops.cpu.kernels.RECOVERY_LIMIT`), x is kept instead. Without an
activation x is kept, since the output may be edited in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l1bn.ops import formula
from l1bn.ops.cpu import kernels
from l1bn.ops.cpu import operators as cpu_library
from l1bn.ops.cpu.layout import sign_bits
from l1bn.ops.cpu.pair import train_pair
from l1bn.ops.cpu.reuse import take_first
from l1bn.ops.running import update_running_statistics
from l1bn.ops.second_derivative import Gradients, double_backward, frozen_backward
from l1bn.ops.tracing import is_transformed

__all__ = ["BACKEND", "Cpu"]

#: Dtypes of γ and β; None where the layer has none.
_PARAMETERS = {None, *kernels.DTYPES}


class _Train(torch.autograd.Function):
    """Returns y, with the statistics left in ``out``; where x is not kept, also σ.

    A second derivative then reaches x through y and σ, both outputs of this node.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        options: _Options,
    ) -> Tensor | tuple[Tensor, Tensor]:
        activation, eps, running, out = options
        code = kernels.ACTIVATIONS[activation]
        differentiable = True in ctx.needs_input_grad
        y, statistics, bits, layout = kernels.forward(
            x, weight, bias, residual, code, eps, code != 0 and differentiable, running
        )
        if out is not None:
            out.append(statistics)
        if not differentiable:
            return y
        ctx.options = code, activation, eps, layout
        if bits is None:
            ctx.save_for_backward(x, weight, bias, statistics, y if code else None)
            return y
        scale = statistics[2]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(None, weight, bias, statistics, y, residual, bits, scale)
        return y, scale

    boxed_grads_call = True

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        grad, others, spare = take_first(grads)
        x, weight, bias, statistics, y, *recovery = ctx.saved_tensors
        code, activation, eps, layout = ctx.options
        grad_scale = others[0] if recovery else None
        residual, bits, _ = recovery or (None, None, None)
        if grad is None and grad_scale is None:
            return (None,) * 5
        if grad is None or grad_scale is not None or torch.is_grad_enabled():
            out: Gradients
            if recovery or grad is None:
                sign = sign_bits(recovery[1], layout, y.shape)
                out = double_backward(
                    grad, grad_scale, y, residual, sign, weight, bias, recovery[2], activation, eps
                )
            else:
                out = formula.closed_form_backward(grad, x, y, weight, activation, eps)
            return _cast(ctx, out, y if x is None else x, weight, bias)
        wanted = ctx.needs_input_grad
        dx, dweight, dbias, dresidual = kernels.backward(
            grad,
            layout,
            y,
            x,
            residual,
            bits,
            weight,
            bias,
            statistics,
            code,
            eps,
            wanted[0],
            wanted[1] or wanted[2],
            wanted[3],
            False,
            spare,
        )
        if weight is None or not wanted[1]:
            dweight = None
        elif dweight is not None and dweight.dtype != weight.dtype:
            dweight = dweight.to(weight.dtype)
        if bias is None or not wanted[2]:
            dbias = None
        elif dbias is not None and dbias.dtype != bias.dtype:
            dbias = dbias.to(bias.dtype)
        return dx, dweight, dbias, dresidual, None


#: Activation, eps, running statistics to move, and where the batch's go.
_Options = tuple[str | None, float, kernels.Running | None, list[Tensor] | None]
# Function.apply looks for functorch transforms, in Python; where none is active this is the same.
_train = super(torch.autograd.Function, _Train).apply


def _cast(
    ctx: Any,
    gradients: tuple[Tensor | None, ...],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients in the inputs' dtypes, None where not wanted."""
    targets = (x, weight, bias, x)
    cast = [
        v.to(t.dtype) if v is not None and t is not None and wanted else None
        for v, t, wanted in zip(gradients, targets, ctx.needs_input_grad[:4], strict=True)
    ]
    return *cast, None


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
        y, statistics, recoverable, layout = kernels.evaluate(
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
            statistics,
        )
        ctx.options = code, activation, eps, layout
        return y

    boxed_grads_call = True

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        grad, _, spare = take_first(grads)
        assert grad is not None  # absent ones are made zeros
        x, y, residual, weight, bias, statistics = ctx.saved_tensors
        code, activation, eps, layout = ctx.options
        wanted = ctx.needs_input_grad
        dx: Tensor | None
        if torch.is_grad_enabled():
            dx, dweight, dbias, dresidual = frozen_backward(
                grad, x, y, residual, weight, bias, statistics, activation
            )
            dresidual = dresidual if wanted[5] else None
        else:
            dx, dweight, dbias, dresidual = kernels.backward(
                grad,
                layout,
                y,
                x,
                residual,
                None,
                weight,
                bias,
                statistics,
                code,
                eps,
                wanted[0],
                wanted[3] or wanted[4],
                wanted[5],
                True,
                spare,
            )
        dweight = _like(dweight, weight) if wanted[3] else None
        return dx, None, None, dweight, _like(dbias, bias), dresidual, None, None


def _moves_natively(running_mean: Tensor, running_var: Tensor, momentum: float | Tensor) -> bool:
    """Whether the kernels can move these running statistics."""
    return (
        not isinstance(momentum, Tensor)
        and running_mean.dtype == running_var.dtype
        and running_mean.is_contiguous()
        and running_var.is_contiguous()
    )


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
        dtype = None if weight is None else weight.dtype
        other = dtype if bias is None else bias.dtype
        if (dtype is not other and dtype is not None) or other not in _PARAMETERS:
            found = sorted({str(v.dtype) for v in (weight, bias) if v is not None})
            return f"weight and bias need one floating-point dtype, got {found}"
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
        if torch.compiler.is_compiling():
            y, parts = cpu_library.forward(
                x, weight, bias, residual, kernels.ACTIVATIONS[activation], eps
            )
            return y, parts[0].detach(), parts[2].detach()
        if is_transformed(x):
            return formula.train(x, weight, bias, residual, activation, eps)
        out: list[Tensor] = []
        y = _train(x, weight, bias, residual, (activation, eps, None, out))
        return y if isinstance(y, Tensor) else y[0], out[0][0], out[0][2]

    def train_and_update(
        self,
        x: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: str | None,
        momentum: float | Tensor,
        eps: float,
    ) -> Tensor:
        """Normalize and move the running statistics, see :class:`l1bn.ops.registry.Backend`."""
        if is_transformed(x) or not _moves_natively(running_mean, running_var, momentum):
            y, mean, scale = self.train(x, weight, bias, residual, activation, eps)
            count = x.numel() // x.shape[1]
            update_running_statistics(running_mean, running_var, mean, scale, count, momentum, eps)
            return y
        options = activation, eps, (running_mean, running_var, momentum), None
        y = _train(x, weight, bias, residual, options)
        return y if isinstance(y, Tensor) else y[0]

    def train_pair(
        self, first: Sequence[Any], second: Sequence[Any], activation: str
    ) -> Tensor | None:
        """Normalize and add two branches, see :class:`l1bn.ops.registry.PairBackend`."""
        x, mean, var, weight, bias, _, momentum, eps = first
        other_x, other_mean, other_var, other_weight, other_bias, _, other_momentum, floor = second
        if is_transformed(x) or is_transformed(other_x) or not torch.is_grad_enabled():
            return None
        if mean is not None and not _moves_natively(mean, var, momentum):
            return None
        if other_mean is not None and not _moves_natively(other_mean, other_var, other_momentum):
            return None
        running = (
            None if mean is None else (mean, var, momentum),
            None if other_mean is None else (other_mean, other_var, other_momentum),
        )
        return train_pair(
            x, weight, bias, other_x, other_weight, other_bias, activation, (eps, floor), running
        )

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
        plain = (activation is None and residual is None) or x.numel() == 0
        if plain or is_transformed(x) or running_mean.dtype != running_var.dtype:
            return formula.evaluate(
                x, running_mean, running_var, weight, bias, residual, activation, eps
            )
        return _Evaluate.apply(
            x, running_mean, running_var, weight, bias, residual, activation, eps
        )


BACKEND = Cpu()
