"""A backend's kernels as ``torch.library`` operators, for ``torch.compile``.

In eager mode a backend calls its kernels directly: the dispatcher costs as much as a layer on a
small input. The compiler sees these operators, functional and with fake kernels. They keep what
eager mode keeps: y and one bit per element, or the input where x̂ cannot be recovered, which is
decided when they run (``l1bn.ops.spill``). So they are opaque to the compiler: it could see into
kernels of Triton (``triton_op``), but would then fix that decision for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from l1bn.activation import Activation, clips, keeps_output, passed
from l1bn.ops import formula
from l1bn.ops.records import Call, Context
from l1bn.ops.tracing import is_transformed


def activation_of(name: str | None, parameter: float | None) -> Activation | None:
    """The activation of a name and a parameter, as operators take it."""
    return name if name is None or parameter is None else (name, parameter)


def parted(activation: Activation | None) -> tuple[str | None, float | None]:
    """The name and the parameter of an activation, None where a call gives none."""
    if not isinstance(activation, tuple):
        return activation, None
    name, parameter = activation
    return name, float(parameter)


class Kept(NamedTuple):
    """What backward has: x, or the output and the bits in its place.

    Attributes:
        x: the input.
        y: the output, there unless backward computes z again.
        residual: the residual, where backward has use for it.
        bits: sign bits with their flag.
        statistics: what forward returned.
        rows: as ``Kernels.has_rows`` says of the input.
    """

    x: Tensor | None
    y: Tensor | None
    residual: Tensor | None
    bits: Tensor | None
    statistics: Tensor
    rows: bool


class Kernels(Protocol):
    """What a backend gives for its operators; the first three are asked with fake tensors too.

    Attributes:
        statistics: rows of what forward returns beside the output; the third one is σ.
    """

    statistics: int

    def has_rows(self, x: Tensor) -> bool:
        """Whether the kernels write their output with the channels last."""

    def empty_like(self, v: Tensor, rows: bool) -> Tensor:
        """Memory as the kernels write it: for an output, or for a gradient of the input."""

    def bits_bytes(self, shape: torch.Size, rows: bool) -> int:
        """Bytes of the sign bits with their flag, which is the last one."""

    def forward(
        self, x: Tensor, residual: Tensor | None, call: Call, want_bits: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normalize; return y, the statistics and the bits with their flag, or the input behind."""

    def backward(
        self, grad: Tensor, kept: Kept, call: Call, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, ...]:
        """Gradients of x, γ, β and the residual; wanted of x, of both parameters, of residual."""


#: The operators of training, see ``define``.
Forward = Callable[..., tuple[Tensor, Tensor, Tensor]]
Backward = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


class Operators(NamedTuple):
    """The operators of a backend."""

    forward: Forward
    backward: Backward

    def train(
        self, x: Tensor, residual: Tensor | None, call: Call, may_recover: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Training as the compiler sees it, see ``l1bn.ops.registry.Backend``.

        Args:
            x: input.
            residual: residual or None.
            call: the other arguments.
            may_recover: False where the backend cannot know in time whether x̂ can be recovered.
        """
        weight, bias, activation, eps = call
        given = x, weight, bias, residual
        differentiable = torch.is_grad_enabled() and any(
            v is not None and v.requires_grad for v in given
        )
        # The kernels recover x̂ from y, not from y + residual without an activation.
        recovers = residual is None if activation is None else keeps_output(activation, x.dtype)
        name, parameter = parted(activation)
        y, parts, _ = self.forward(
            *given, activation=name, parameter=parameter, eps=eps,
            want_bits=differentiable and recovers and may_recover,
        )  # fmt: skip
        return y, parts[0].detach(), parts[2].detach()


def define(backend: str, kernels: Kernels, device_types: str | None) -> Operators:
    """Register ``l1bn::<backend>_forward`` and ``l1bn::<backend>_backward``.

    Args:
        backend: name of the backend.
        kernels: what the operators call.
        device_types: where they run; None for everywhere.
    """
    backward = _define_backward(f"l1bn::{backend}_backward", kernels, device_types)
    return Operators(
        _define_forward(f"l1bn::{backend}_forward", kernels, backward, device_types), backward
    )


def _define_forward(
    name: str, kernels: Kernels, backward: Backward, device_types: str | None
) -> Forward:
    @torch.library.custom_op(name, mutates_args=(), device_types=device_types)
    def forward(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: str | None,
        parameter: float | None,
        eps: float,
        want_bits: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        call = Call(weight, bias, activation_of(activation, parameter), eps)
        y, statistics, bits = kernels.forward(x, residual, call, want_bits)
        return y, statistics, x.new_empty(0, dtype=torch.uint8) if bits is None else bits

    @forward.register_fake
    def _(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        want_bits = others[-1]
        rows = kernels.has_rows(x)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        statistics = x.new_empty((kernels.statistics, x.shape[1]), dtype=wide)
        size = kernels.bits_bytes(x.shape, rows) if want_bits else 0
        return kernels.empty_like(x, rows), statistics, x.new_empty(size, dtype=torch.uint8)

    def setup(ctx: _Context, inputs: _Inputs, output: tuple[Tensor, Tensor, Tensor]) -> None:
        _keep(ctx, inputs, output, kernels.has_rows(inputs[0]))

    def differentiate(
        ctx: _Context, grad: Tensor | None, *_: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, grad, backward)

    forward.register_autograd(differentiate, setup_context=setup)
    return forward


def _define_backward(name: str, kernels: Kernels, device_types: str | None) -> Backward:
    @torch.library.custom_op(name, mutates_args=(), device_types=device_types)
    def backward(
        grad: Tensor,
        x: Tensor | None,
        y: Tensor | None,
        residual: Tensor | None,
        bits: Tensor | None,
        statistics: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        activation: str | None,
        parameter: float | None,
        eps: float,
        rows: bool,
        of_x: bool,
        of_parameters: bool,
        of_residual: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        found = kernels.backward(
            grad,
            Kept(x, y, residual, bits, statistics, rows),
            Call(weight, bias, activation_of(activation, parameter), eps),
            (of_x, of_parameters, of_residual),
        )
        dx, dweight, dbias, dresidual = (grad.new_empty(0) if v is None else v for v in found)
        return dx, dweight, dbias, dresidual

    @backward.register_fake
    def _(grad: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        statistics = others[4]
        rows, of_x, of_parameters, of_residual = others[-4:]

        def of_input(wanted: bool) -> Tensor:
            return kernels.empty_like(grad, rows) if wanted else grad.new_empty(0)

        def of_parameter() -> Tensor:
            if not of_parameters:
                return grad.new_empty(0)
            return statistics.new_empty(grad.shape[1])

        return of_input(of_x), of_parameter(), of_parameter(), of_input(of_residual)

    return backward


#: Arguments of ``forward``.
_Inputs = tuple[
    Tensor, Tensor | None, Tensor | None, Tensor | None, str | None, float | None, float, bool
]


class _Context(Context, Protocol):
    options: tuple[Activation | None, float, bool, bool]


def _keep(
    ctx: _Context, inputs: _Inputs, output: tuple[Tensor, Tensor, Tensor], rows: bool
) -> None:
    """Save for backward what eager mode would."""
    x, weight, bias, residual, name, parameter, eps, want_bits = inputs
    activation = activation_of(name, parameter)
    y, statistics, bits = output
    # Where nothing is compiled after all there are derivatives of any order, and a copy is one.
    # Without an activation y may be edited in place; compiled, that costs no copy.
    kept: tuple[Tensor | None, ...]
    if want_bits and is_transformed(y):
        kept = None, y if activation else y.clone(), residual, bits
    else:
        bends = activation is not None and not clips(activation)
        again = residual if bends else None
        kept = x, y if activation is not None and not bends else None, again, None
    ctx.mark_non_differentiable(statistics, bits)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*kept, statistics, weight, bias)
    ctx.options = activation, eps, rows, residual is not None


def _gradients(ctx: _Context, grad: Tensor | None, backward: Backward) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    x, y, residual, bits, statistics, weight, bias = ctx.saved_tensors
    activation, eps, rows, with_residual = ctx.options
    of_x, of_weight, of_bias, of_residual = ctx.needs_input_grad[:4]
    found: tuple[Tensor | None, ...]
    if x is not None and torch.is_grad_enabled():
        call = Call(weight, bias, activation, eps)
        found = formula.closed_form_backward(grad, x, y, residual, call)
    elif of_x or of_weight or (activation is not None and not clips(activation)):
        masked = of_residual and activation is not None
        name, parameter = parted(activation)
        dx, dweight, dbias, dresidual = backward(
            grad, x, y, residual, bits,
            statistics=statistics, weight=weight, bias=bias,
            activation=name, parameter=parameter, eps=eps, rows=rows,
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
