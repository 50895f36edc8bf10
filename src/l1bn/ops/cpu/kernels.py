"""The native kernels as functions of tensors: no autograd, and no buffers but the running ones.

Written for a short call: a layer on sixteen values spends its time here, not in the kernels.
Statistics and gradients of parameters are float32, float64 for float64 tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from l1bn.ops.cpu.layout import Layout, as_layout, as_vector, to_layout
from l1bn.ops.cpu.memory import CPU, address, is_ordinary
from l1bn.ops.native import float_norm as _native
from l1bn.ops.native.float_norm import Native
from l1bn.ops.native.library import check as _check

#: The library, or why there is none.
NATIVE: Native | str = _native.load()

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
ACTIVATIONS = {None: 0, "relu": 1, "relu6": 2}

#: x̂ is recovered from y where (|β| + max|residual|) / |γ| is at most this, and σ above its floor,
#: in every channel. y carries a rounding of u·|y|, so x̂ = (y − residual − β)/γ is off by at most
#: about u·(|x̂| + limit): for float32 within the error of the eager formula's own sums, for the
#: 16-bit formats a few roundings of one element, which average out over a channel.
RECOVERY_LIMIT = (16.0, 4.0, 4.0, 16.0)

#: Running mean, running variance and momentum.
Running = tuple[Tensor, Tensor, float]


def _native_or_raise() -> Native:
    if isinstance(NATIVE, str):
        raise RuntimeError(NATIVE)
    return NATIVE


class Call(NamedTuple):
    """The arguments of a call that forward and backward share; the activation as a code."""

    weight: Tensor | None
    bias: Tensor | None
    activation: int
    eps: float


class Kept(NamedTuple):
    """What a call leaves for ``backward``: ``x``, or ``bits`` and the residual in its place.

    ``y`` is there with an activation, and wherever x̂ is recovered from it. ``residual`` is read
    only where x̂ is recovered under an activation. ``frozen`` statistics are constants.

    Shape:
        - statistics: ``(3, C)``: the mean in two parts whose sum it is (near a large mean one
          float32 cannot tell on which side of it a value lies), and σ
    """

    layout: Layout
    statistics: Tensor
    x: Tensor | None = None
    bits: Tensor | None = None
    residual: Tensor | None = None
    y: Tensor | None = None
    frozen: bool = False


class Wanted(NamedTuple):
    """Which gradients ``backward`` is asked for."""

    dx: bool = True
    parameters: bool = True
    dresidual: bool = True


def _parameters(call: Call, channels: int) -> tuple[int, Tensor | None, Tensor | None]:
    """Code of their dtype, γ and β without gaps."""
    weight, bias = call.weight, call.bias
    if weight is not None:
        weight = as_vector(weight, channels)
        code = DTYPES[weight.dtype]
        if bias is None:
            return code, weight, None
        bias = as_vector(bias, channels)
        if bias.dtype is not weight.dtype:
            raise TypeError(
                f"expected weight and bias of one dtype, got {weight.dtype} and {bias.dtype}: "
                "convert one of them"
            )
        return code, weight, bias
    if bias is None:
        return 0, None, None
    return DTYPES[bias.dtype], None, as_vector(bias, channels)


def moves_natively(running_mean: Tensor, running_var: Tensor, momentum: float | Tensor) -> bool:
    """Whether the kernels can move these running statistics where they lie."""
    return (
        not isinstance(momentum, Tensor)
        and running_mean.dtype is running_var.dtype
        and running_mean.is_contiguous()
        and running_var.is_contiguous()
        and is_ordinary(running_mean)
        and is_ordinary(running_var)
    )


def _new_statistics(channels: int, dtype: torch.dtype) -> Tensor:
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    return torch.empty((3, channels), dtype=wide, device=CPU)


def _addresses(statistics: Tensor) -> tuple[int, int]:
    """Of the mean's two parts and of σ."""
    at = address(statistics)
    return at, at + 2 * statistics.shape[1] * statistics.element_size()


def forward(
    x: Tensor,
    residual: Tensor | None,
    call: Call,
    want_bits: bool,
    running: Running | None,
    spare: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None, Layout]:
    """Normalize with the statistics of the batch.

    Args:
        x: input.
        residual: added before the activation.
        call: the other arguments.
        want_bits: also return the sign bits, if x̂ can be recovered from y.
        running: statistics to move in place, see ``l1bn.ops.running``, which
            ``moves_natively`` allows.
        spare: bytes to add after the bits, which are left as they are.

    Returns:
        ``(y, statistics, bits, layout)``. ``bits`` is None where x̂ cannot be recovered.
    """
    native = _native_or_raise()
    x, layout = to_layout(x)
    parameter_code, weight, bias = _parameters(call, layout.channels)
    dtype = x.dtype
    if residual is not None:
        residual = as_layout(residual, layout, dtype)
    y = torch.empty_like(x)
    statistics = _new_statistics(layout.channels, dtype)
    bits = None
    if want_bits:
        bits = torch.empty(native.bits_bytes(*layout) + spare, dtype=torch.uint8, device=CPU)
    code = DTYPES[dtype]
    moved = (0, 0, 0, 0.0)
    if running is not None:
        mean, var, momentum = running
        moved = (address(mean), address(var), DTYPES[mean.dtype], momentum)
    bad = native.forward(
        _native.pack_forward(
            *layout,
            code,
            parameter_code,
            call.activation,
            torch.get_num_threads(),
            call.eps,
            address(x),
            address(residual),
            address(weight),
            address(bias),
            address(y),
            *_addresses(statistics),
            address(bits),
            RECOVERY_LIMIT[code],
            *moved,
        )
    )
    if bad:
        _check(bad)
        bits = None
    return y, statistics, bits, layout


_Found = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _laid_out(kept: Kept, dtype: torch.dtype, bits_bytes: int) -> Kept:
    """What was kept as the kernels read it: saved tensors may come back with other strides."""
    layout, statistics, x, bits, residual, y, frozen = kept
    return Kept(
        layout,
        as_vector(statistics, 3 * layout.channels),
        None if x is None else as_layout(x, layout, dtype),
        None if bits is None else as_vector(bits, bits_bytes),
        None if residual is None else as_layout(residual, layout, dtype),
        None if y is None else as_layout(y, layout, dtype),
        frozen,
    )


def backward(
    grad: Tensor, call: Call, kept: Kept, wanted: Wanted, overwrite: bool = False
) -> _Found:
    """Compute the gradients of ``forward`` or, frozen, of ``evaluate``.

    Args:
        grad: gradient of the output.
        call: arguments of the forward call.
        kept: what it left.
        wanted: which gradients to return.
        overwrite: ``grad`` is of the caller's own making, and a result may take its memory.

    Returns:
        ``(dx, dγ, dβ, d residual)``, None where not wanted.
    """
    native = _native_or_raise()
    layout, dtype = kept.layout, grad.dtype
    parameter_code, weight, bias = _parameters(call, layout.channels)
    given, grad = grad, as_layout(grad, layout, dtype)
    overwrite = overwrite or grad is not given  # a copy is ours
    kept = _laid_out(kept, dtype, native.bits_bytes(*layout))
    statistics = kept.statistics
    dweight = dbias = None
    if wanted.parameters:
        dweight = torch.empty(layout.channels, dtype=statistics.dtype, device=CPU)
        dbias = torch.empty_like(dweight)
    # Without an activation the residual's gradient is the output's.
    masked = wanted.dresidual and call.activation != 0
    dx = dresidual = None
    if masked:
        dresidual = grad.detach() if overwrite else torch.empty_like(grad)
    if wanted.dx:
        dx = grad.detach() if overwrite and not wanted.dresidual else torch.empty_like(grad)
    code = native.backward(
        _native.pack_backward(
            *layout,
            DTYPES[dtype],
            parameter_code,
            call.activation,
            torch.get_num_threads(),
            call.eps,
            address(grad),
            address(kept.y),
            address(kept.x),
            address(kept.residual),
            address(kept.bits),
            address(weight),
            address(bias),
            *_addresses(statistics),
            address(dx),
            address(dresidual),
            address(dweight),
            address(dbias),
            kept.frozen,
        )
    )
    if code:
        _check(code)
    return dx, dweight, dbias, grad if wanted.dresidual and not masked else dresidual


def evaluate(
    x: Tensor, running_mean: Tensor, running_var: Tensor, residual: Tensor | None, call: Call
) -> tuple[Tensor, Tensor, bool, Layout]:
    """Normalize with running statistics.

    Returns:
        ``(y, statistics, recoverable, layout)``: the statistics are what ``backward`` needs,
        ``recoverable`` tells whether x̂ can be read back from y.
    """
    native = _native_or_raise()
    x, layout = to_layout(x)
    parameter_code, weight, bias = _parameters(call, layout.channels)
    mean, var = (as_vector(v, layout.channels) for v in (running_mean, running_var))
    dtype = x.dtype
    if residual is not None:
        residual = as_layout(residual, layout, dtype)
    y = torch.empty_like(x)
    statistics = _new_statistics(layout.channels, dtype)
    code = DTYPES[dtype]
    bad = native.evaluate(
        _native.pack_evaluate(
            *layout,
            code,
            parameter_code,
            call.activation,
            torch.get_num_threads(),
            call.eps,
            address(x),
            address(residual),
            address(weight),
            address(bias),
            address(mean),
            address(var),
            DTYPES[running_mean.dtype],
            address(y),
            *_addresses(statistics),
            RECOVERY_LIMIT[code],
        )
    )
    _check(bad)
    return y, statistics, bad == 0, layout


def pack_alive(y: Tensor, value: Tensor, layout: Layout, activation: int) -> Tensor:
    """Return the elements of ``value`` where the activation passes a gradient.

    Args:
        y: output of an activation.
        value: tensor of the same shape and dtype.
        layout: layout of both in memory; they are brought to it.
        activation: code of ``ACTIVATIONS``, not 0.

    Shape:
        - Output: ``(elements alive)``, in the order of memory
    """
    native = _native_or_raise()
    y, value = as_layout(y, layout, y.dtype), as_layout(value, layout, y.dtype)
    problem = y.numel(), DTYPES[y.dtype], activation, torch.get_num_threads(), address(y)
    count = native.count_alive(_native.pack_alive(*problem, 0, 0))
    _check(count)
    out = torch.empty(count, dtype=value.dtype, device=CPU)
    _check(native.pack_alive(_native.pack_alive(*problem, address(value), address(out))))
    return out


def unpack_alive(y: Tensor, packed: Tensor, layout: Layout, activation: int) -> Tensor:
    """Undo ``pack_alive``, with 0 where no gradient passes. The strides are the layout's."""
    native = _native_or_raise()
    y = as_layout(y, layout, y.dtype)
    out = torch.empty_like(y)
    problem = y.numel(), DTYPES[y.dtype], activation, torch.get_num_threads(), address(y)
    count = native.count_alive(_native.pack_alive(*problem, 0, 0))
    _check(count)
    packed = as_vector(packed, count)
    _check(native.unpack_alive(_native.pack_alive(*problem, address(packed), address(out))))
    return out
