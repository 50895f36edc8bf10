"""The ``cpu`` backend: native kernels, one bit kept per element instead of a tensor.

With an activation that can be read off its output, backward needs the output y (which the next
layer keeps anyway) and one sign bit per element: x̂ = (z − residual − β)/γ wherever the activation
passes a gradient. Where a γ is too small for that (``l1bn.ops.cpu.kernels.RECOVERY_LIMIT``), x is
kept instead. Without an activation x is kept, since the output may be edited in place. Under any
other activation x alone is kept, and the residual, and z is computed from it again.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from l1bn.activation import Activation, clips, keeps_output
from l1bn.ops import formula, frozen
from l1bn.ops.cpu import kernels, node, operators
from l1bn.ops.cpu.layout import Layout, sign_bits
from l1bn.ops.cpu.pair import train_pair
from l1bn.ops.records import Branch, Call, Context, Running, SavedOutput
from l1bn.ops.running import update_running_statistics
from l1bn.ops.second_derivative import double_backward, frozen_backward
from l1bn.ops.tracing import is_looked_at

#: Dtypes of γ and β; None where the layer has none.
_PARAMETERS = {None, *kernels.DTYPES}


class _Saved(NamedTuple):
    """What training leaves for backward; x, or what stands for it."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    statistics: Tensor
    y: Tensor | None
    residual: Tensor | None
    bits: Tensor | None
    scale: Tensor | None


class _Context(Context, Protocol):
    options: tuple[Activation | None, float]
    layout: Layout


class _Train(torch.autograd.Function):
    """Returns y, with the statistics left in ``out``; where x is not kept, also σ.

    A second derivative then reaches x through y and σ, both outputs of this node.
    """

    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        options: _Options,
    ) -> Tensor | tuple[Tensor, Tensor]:
        call, running, out = options
        code, _ = kernels.coded(call.activation)
        from_output = code != 0 and keeps_output(call.activation, x.dtype)
        differentiable = True in ctx.needs_input_grad
        y, statistics, bits, layout = kernels.forward(
            x, residual, call, from_output and differentiable, running
        )
        if out is not None:
            out.append(statistics)
        if not differentiable:
            return y
        ctx.options, ctx.layout = (call.activation, call.eps), layout
        # Beside x, y is needed where the activation clips; where it bends, the residual.
        ctx.keeps_output = bits is not None or 0 < code <= kernels.CLIPPING
        if bits is None:
            again = residual if code > kernels.CLIPPING else None
            kept = y if ctx.keeps_output else None
            ctx.save_for_backward(x, weight, bias, statistics, kept, again, None, None)
            return y
        ctx.set_materialize_grads(False)
        if not ctx.needs_input_grad[0]:  # the sign of x − μ is for x's gradient
            ctx.save_for_backward(None, weight, bias, statistics, y, residual, None, None)
            return y
        scale = statistics[2]
        ctx.save_for_backward(None, weight, bias, statistics, y, residual, bits, scale)
        return y, scale

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        both = grads[0], grads[1] if len(grads) > 1 else None
        saved = _Saved(*ctx.saved_tensors)
        return *_gradients(both, saved, ctx.options, ctx.layout, ctx.needs_input_grad), None


def differentiate(
    grads: tuple[Tensor | None, Tensor | None],
    saved: tuple[Tensor | None, ...],
    options: tuple[int, float, float],
    layout: tuple[int, int, int],
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """What the compiled node asks for where more than the kernels is needed.

    Args:
        grads: gradients of y and of σ.
        saved: as the fields of ``_Saved``.
        options: code of the activation, its parameter, eps.
        layout: as ``l1bn.ops.cpu.layout.Layout``.
        wanted: whether of x, weight, bias and residual.
    """
    code, parameter, eps = options
    activation = kernels.activation_of(code, parameter)
    kept = _Saved(*saved)  # type: ignore[arg-type]  # statistics are always there
    return tuple(_gradients(grads, kept, (activation, eps), Layout(*layout), wanted))


def _gradients(
    grads: tuple[Tensor | None, Tensor | None],
    saved: _Saved,
    options: tuple[Activation | None, float],
    layout: Layout,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of x, weight, bias and residual from those of y and σ."""
    grad, grad_scale = grads
    if grad is None and grad_scale is None:
        return [None] * 4
    x, weight, bias, statistics, y, residual, bits, _ = saved
    call = Call(weight, bias, *options)
    found: tuple[Tensor | None, ...]
    if grad is None or grad_scale is not None or is_looked_at(grad):
        found = _differentiable(grad, grad_scale, call, saved, layout)
    else:
        # Without bits, x̂ comes from y for γ alone: to it the statistics are constants.
        constants = x is None and bits is None
        found = kernels.backward(
            grad,
            call,
            kernels.Kept(layout, statistics, x, bits, residual, y, frozen=constants),
            kernels.Wanted(wanted[0], wanted[1] or wanted[2], wanted[3]),
        )
    of_x = y if x is None else x
    return formula.cast(found, (of_x, weight, bias, of_x), wanted)


def _differentiable(
    grad: Tensor | None, grad_scale: Tensor | None, call: Call, saved: _Saved, layout: Layout
) -> tuple[Tensor | None, ...]:
    """Gradients of training as operations that autograd differentiates."""
    x, y, residual, scale = saved.x, saved.y, saved.residual, saved.scale
    if scale is not None:
        assert y is not None  # all three are kept together
        assert saved.bits is not None
        sign = sign_bits(saved.bits, layout, y.shape)
        return double_backward(grad, grad_scale, SavedOutput(y, residual, sign, scale), call)
    assert grad is not None  # there is no other output
    if x is not None:
        return formula.closed_form_backward(grad, x, y, residual, call)
    return frozen_backward(grad, x, y, residual, saved.statistics, call)


#: The other arguments, running statistics to move, and where the batch's go.
_Options = tuple[Call, kernels.Movable | None, list[Tensor] | None]


class _Evaluate(torch.autograd.Function):
    """For γ's gradient: y and the residual, or x where x̂ cannot be recovered from y."""

    @staticmethod
    def forward(
        ctx: _Context,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        options: tuple[Activation | None, float],
        running: Running,
    ) -> Tensor:
        call = Call(weight, bias, *options)
        code, _ = kernels.coded(call.activation)
        from_output = code != 0 and keeps_output(call.activation, x.dtype)
        y, statistics, recoverable, layout = kernels.evaluate(x, residual, call, running)
        keep_x = not (from_output and recoverable)
        again = code > kernels.CLIPPING
        ctx.keeps_output = not keep_x or 0 < code <= kernels.CLIPPING
        ctx.save_for_backward(
            x if keep_x else None,
            y if ctx.keeps_output else None,
            residual if again or not keep_x else None,
            weight,
            bias,
            statistics,
        )
        ctx.options, ctx.layout = options, layout
        return y

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, y, residual, weight, bias, statistics = ctx.saved_tensors
        call = Call(weight, bias, *ctx.options)
        wanted = ctx.needs_input_grad
        found: tuple[Tensor | None, ...]
        if is_looked_at(grad):
            found = frozen_backward(grad, x, y, residual, statistics, call)
        else:
            found = kernels.backward(
                grad,
                call,
                kernels.Kept(ctx.layout, statistics, x, None, residual, y, frozen=True),
                kernels.Wanted(wanted[0], wanted[1] or wanted[2], wanted[3]),
            )
        return *formula.cast(found, (grad, weight, bias, grad), wanted), None, None


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        "expected l1bn's native CPU kernels, found none, so the slower eager backend runs: "
        + reason,
        RuntimeWarning,
        stacklevel=2,
    )


class Cpu:
    """Serves dense and strided CPU tensors of the four floating-point formats."""

    name = "cpu"
    #: ``torch.compile`` sees operators, see :class:`l1bn.ops.registry.Registry`.
    compiles = True
    activations = frozenset(name for name in kernels.ACTIVATIONS if name is not None)

    def unavailable(self) -> str | None:
        """Why the library cannot be loaded, or None; said once as a warning too."""
        if not isinstance(kernels.NATIVE, str):
            return None
        if not torch.compiler.is_compiling():
            _warn_once(kernels.NATIVE)
        return kernels.NATIVE

    def unsupported(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None
    ) -> str | None:
        """Why these tensors cannot be served, or None."""
        if not x.is_cpu or x.layout is not torch.strided:
            return f"it takes strided CPU tensors, got {x.layout} on {x.device}"
        if x.dtype not in kernels.DTYPES:
            return f"it takes float32, bfloat16, float16 and float64, got {x.dtype}"
        dtype = None if weight is None else weight.dtype
        other = dtype if bias is None else bias.dtype
        if (dtype is not other and dtype is not None) or other not in _PARAMETERS:
            found = sorted({str(v.dtype) for v in (weight, bias) if v is not None})
            return f"weight and bias need one floating-point dtype, got {found}"
        return None

    def missing_node(self) -> str | None:
        """Why the compiled autograd node does not serve, or None where it does."""
        found = node.find(differentiate)
        return found if isinstance(found, str) else None

    def train_quickly(
        self, call: Branch, residual: Tensor | None, activation: Activation | None
    ) -> Tensor | None:
        """Do a whole call by the compiled node, see ``l1bn.ops.registry.QuickBackend``."""
        found = node.find(differentiate)
        return None if isinstance(found, str) else node.train(found, call, residual, activation)

    def train(
        self, x: Tensor, residual: Tensor | None, call: Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize with batch statistics, see ``l1bn.ops.registry.Backend``."""
        if torch.compiler.is_compiling():
            return operators.OPERATORS.train(x, residual, call)
        out: list[Tensor] = []
        y = _Train.apply(x, call.weight, call.bias, residual, (call, None, out))
        return y if isinstance(y, Tensor) else y[0], out[0][0], out[0][2]

    def train_and_update(
        self, x: Tensor, residual: Tensor | None, call: Call, running: Running
    ) -> Tensor:
        """Normalize and move the running statistics, see ``l1bn.ops.registry.Backend``."""
        moved = None if torch.compiler.is_compiling() else kernels.movable(running)
        if moved is None:
            y, mean, scale = self.train(x, residual, call)
            update_running_statistics(running, mean, scale, x.numel() // x.shape[1], call.eps)
            return y
        y = _Train.apply(x, call.weight, call.bias, residual, (call, moved, None))
        return y if isinstance(y, Tensor) else y[0]

    def train_pair(self, first: Branch, second: Branch, activation: Activation) -> Tensor | None:
        """Normalize and add two branches, see ``l1bn.ops.registry.PairBackend``."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return None
        running: list[kernels.Movable | None] = []
        for branch in (first, second):
            mean, var = branch.running_mean, branch.running_var
            if mean is None or var is None:
                running.append(None)
                continue
            moved = kernels.movable(Running(mean, var, branch.momentum))
            if moved is None:
                return None
            running.append(moved)
        return train_pair(first, second, activation, running)

    def evaluate(self, x: Tensor, residual: Tensor | None, call: Call, running: Running) -> Tensor:
        """Normalize with running statistics, see ``l1bn.ops.registry.Backend``."""
        if torch.compiler.is_compiling():
            return formula.evaluate(x, residual, call, running)
        activation = call.activation
        plain = (activation is None and residual is None) or x.numel() == 0
        # Without gradients the last bit is BatchNorm's; the kernels bend with exponentials of their
        # own.
        plain |= not (torch.is_grad_enabled() or activation is None or clips(activation))
        if plain or running.mean.dtype is not running.var.dtype:
            return frozen.composed(x, residual, call, running)
        if frozen.serves(x, residual, call):
            return frozen.evaluate(
                x, residual, call, running, lambda: kernels.evaluate(x, residual, call, running)[0]
            )
        options = activation, call.eps
        return _Evaluate.apply(x, call.weight, call.bias, residual, options, running)


BACKEND = Cpu()
