"""The native kernels as ``torch.library`` operators, for ``torch.compile``.

In eager mode ``l1bn.ops.cpu.backend`` calls the kernels directly: the dispatcher costs as much
as a layer on a small input. The compiler sees these operators, functional and with fake kernels.
They keep what eager mode keeps: y and one bit per element, or the input where x̂ cannot be
recovered, which is decided when they run (``l1bn.ops.cpu.spill``).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from l1bn.activation import DESCRIPTIONS, Activation, clips, passed
from l1bn.ops import formula
from l1bn.ops.cpu import kernels, spill
from l1bn.ops.cpu.layout import has_rows, layout_of, like
from l1bn.ops.records import Call, Context
from l1bn.ops.tracing import is_transformed

_NAMES = {code: name for name, code in kernels.ACTIVATIONS.items()}


def activation_of(code: int, parameter: float) -> Activation | None:
    """The activation of a code of ``l1bn.ops.cpu.kernels`` and its parameter."""
    name = _NAMES[code]
    takes = isinstance(name, str) and DESCRIPTIONS[name].parameter is not None
    return (str(name), parameter) if takes else name


@torch.library.custom_op("l1bn::cpu_forward", mutates_args=(), device_types="cpu")
def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    parameter: float,
    eps: float,
    want_bits: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize with batch statistics; returns y, the mean in two parts with σ, and the bits.

    Shape:
        - x, residual, y: ``(N, C, *)``
        - statistics: ``(3, C)``
        - bits: as many bytes as ``spill.size`` says, or 0
    """
    call = Call(weight, bias, activation_of(activation, parameter), eps)
    y, statistics, bits, layout = kernels.forward(x, residual, call, want_bits, None, spill.FLAG)
    if bits is not None:
        spill.clear_flag(bits, layout)
    elif want_bits:
        bits = spill.spill(x, layout)
    else:
        bits = x.new_empty(0, dtype=torch.uint8)
    return y, statistics, bits


@forward.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    residual: Tensor | None,  # noqa: ARG001
    activation: int,  # noqa: ARG001
    parameter: float,  # noqa: ARG001
    eps: float,  # noqa: ARG001
    want_bits: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    size = spill.size(layout_of(x.shape, has_rows(x))) if want_bits else 0
    statistics = x.new_empty((3, x.shape[1]), dtype=wide)
    return like(x), statistics, x.new_empty(size, dtype=torch.uint8)


@torch.library.custom_op("l1bn::cpu_backward", mutates_args=(), device_types="cpu")
def backward(
    grad: Tensor,
    x: Tensor | None,
    y: Tensor | None,
    residual: Tensor | None,
    bits: Tensor | None,
    statistics: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: int,
    parameter: float,
    eps: float,
    rows: bool,
    of_x: bool,
    of_parameters: bool,
    of_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``forward``: dx, dγ, dβ and the residual's, empty where not wanted.

    Shape:
        - grad, x, y, residual: ``(N, C, *)``
        - statistics: ``(3, C)``
    """
    layout = layout_of(grad.shape, rows)
    if bits is not None:
        x = spill.spilled(bits, layout, grad.shape, grad.dtype)
        bits = bits[: -spill.FLAG] if x is None else None
        if x is not None and activation <= kernels.CLIPPING:
            residual = None
    found = kernels.backward(
        grad,
        Call(weight, bias, activation_of(activation, parameter), eps),
        kernels.Kept(layout, statistics, x, bits, residual, y),
        kernels.Wanted(of_x, of_parameters, of_residual),
    )
    dx, dweight, dbias, dresidual = (grad.new_empty(0) if v is None else v for v in found)
    return dx, dweight, dbias, dresidual


@backward.register_fake
def _(
    grad: Tensor,
    x: Tensor | None,  # noqa: ARG001
    y: Tensor | None,  # noqa: ARG001
    residual: Tensor | None,  # noqa: ARG001
    bits: Tensor | None,  # noqa: ARG001
    statistics: Tensor,
    weight: Tensor | None,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    activation: int,  # noqa: ARG001
    parameter: float,  # noqa: ARG001
    eps: float,  # noqa: ARG001
    rows: bool,
    of_x: bool,
    of_parameters: bool,
    of_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def of_input(wanted: bool) -> Tensor:
        if not wanted:
            return grad.new_empty(0)
        if not rows:
            return torch.empty_like(grad, memory_format=torch.contiguous_format)
        last = torch.empty_like(grad.movedim(1, -1), memory_format=torch.contiguous_format)
        return last.movedim(-1, 1)

    def of_parameter() -> Tensor:
        if not of_parameters:
            return grad.new_empty(0)
        return statistics.new_empty(grad.shape[1])

    return of_input(of_x), of_parameter(), of_parameter(), of_input(of_residual)


#: Arguments of ``forward``.
_Inputs = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, int, float, float, bool]


class _Context(Context, Protocol):
    options: tuple[int, float, float, bool, bool]


def _setup(ctx: _Context, inputs: _Inputs, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, residual, code, parameter, eps, want_bits = inputs
    activation = activation_of(code, parameter)
    y, statistics, bits = output
    # Where nothing is compiled after all there are derivatives of any order, and a copy is one.
    # Without an activation y may be edited in place; compiled, that costs no copy.
    kept: tuple[Tensor | None, ...]
    if want_bits and is_transformed(y):
        kept = None, y if activation else y.clone(), residual, bits
    else:
        again = residual if code > kernels.CLIPPING else None
        kept = x, y if 0 < code <= kernels.CLIPPING else None, again, None
    ctx.mark_non_differentiable(statistics, bits)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*kept, statistics, weight, bias)
    ctx.options = code, parameter, eps, has_rows(x), residual is not None


def _differentiate(
    ctx: _Context, grad: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    x, y, residual, bits, statistics, weight, bias = ctx.saved_tensors
    code, parameter, eps, rows, with_residual = ctx.options
    activation = activation_of(code, parameter)
    of_x, of_weight, of_bias, of_residual = ctx.needs_input_grad[:4]
    found: tuple[Tensor | None, ...]
    if x is not None and torch.is_grad_enabled():
        call = Call(weight, bias, activation, eps)
        found = formula.closed_form_backward(grad, x, y, residual, call)
    elif of_x or of_weight or (activation is not None and not clips(activation)):
        masked = of_residual and code != 0
        dx, dweight, dbias, dresidual = backward(
            grad, x, y, residual, bits,
            statistics=statistics, weight=weight, bias=bias,
            activation=code, parameter=parameter, eps=eps, rows=rows,
            of_x=of_x, of_parameters=of_weight or of_bias, of_residual=masked,
        )  # fmt: skip
        # Without an activation the residual's gradient is the output's.
        found = dx, dweight, dbias, dresidual if masked else grad
    else:
        g = grad
        if activation is not None:
            g = passed(grad, y, activation)
        found = None, None, g.sum(formula.reduce_dims(g), dtype=statistics.dtype), g
    like_x = grad if y is None else y
    targets = like_x, weight, bias, like_x if with_residual else None
    return *formula.cast(found, targets, ctx.needs_input_grad), None, None, None, None


forward.register_autograd(_differentiate, setup_context=_setup)
