"""The native kernels as functions of tensors: no autograd, and no buffers but the running ones.

Written for a short call: a layer on sixteen values spends its time here, not in the kernels.
Statistics and gradients of parameters are float32, float64 for float64 tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from l1bn.activation import DESCRIPTIONS, Activation, split
from l1bn.ops.cpu.layout import Layout, as_layout, as_vector, to_layout
from l1bn.ops.cpu.memory import (
    Ordinary,
    address,
    alias,
    empty,
    empty_like,
    empty_run,
    is_ordinary,
)
from l1bn.ops.native import float_norm as _native
from l1bn.ops.native.float_norm import Native
from l1bn.ops.native.library import check as _check
from l1bn.ops.records import Call, Running

#: The library, or why there is none.
NATIVE: Native | str = _native.load()

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
ACTIVATIONS: dict[str | None, int] = {
    None: 0,
    "relu": 1,
    "relu6": 2,
    "leaky_relu": 3,
    "elu": 4,
    "silu": 5,
    "hardswish": 6,
    "hardsigmoid": 7,
    "gelu": 8,
    "gelu_tanh": 9,
    "mish": 10,
    "sigmoid": 11,
    "tanh": 12,
}
_BARE: dict[Activation | None, tuple[int, float]] = {
    name: (code, 0.0 if name is None else split(name)[1]) for name, code in ACTIVATIONS.items()
}
_NAMES = {code: name for name, code in ACTIVATIONS.items()}
#: Of those up to this one the gradient passes as it is, or not at all.
CLIPPING = 2

#: x̂ is recovered from y where (|β| + max|residual|) / |γ| is at most this, and σ above its floor,
#: in every channel. y carries a rounding of u·|y|, so x̂ = (y − residual − β)/γ is off by at most
#: about u·(|x̂| + limit): for float32 within the error of the eager formula's own sums, for the
#: 16-bit formats a few roundings of one element, which average out over a channel.
RECOVERY_LIMIT = (16.0, 4.0, 4.0, 16.0)


def _native_or_raise() -> Native:
    if isinstance(NATIVE, str):
        raise RuntimeError(NATIVE)
    return NATIVE


def coded(activation: Activation | None) -> tuple[int, float]:
    """Code of an activation, and its parameter."""
    bare = _BARE.get(activation)
    if bare is not None:
        return bare
    assert activation is not None
    found, parameter = split(activation)
    return ACTIVATIONS[found.name], parameter


def activation_of(code: int, parameter: float) -> Activation | None:
    """The activation of a code and a parameter, as ``coded`` gives them."""
    name = _NAMES[code]
    return name if name is None or DESCRIPTIONS[name].parameter is None else (name, parameter)


#: Running mean, running variance and momentum.
Movable = tuple[Ordinary, Ordinary, float]


class Kept(NamedTuple):
    """What a call leaves for ``backward``: ``x``, or ``bits`` and the residual in its place.

    ``y`` is there with an activation that clips, and wherever x̂ is recovered from it. ``residual``
    is read only under an activation, where x̂ is recovered, or where the activation bends and z is
    computed again from x. ``frozen`` statistics are constants.

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


class _LaidOut(NamedTuple):
    """Tensors of ``Kept`` in the order of its fields, as the kernels read them."""

    statistics: Ordinary
    x: Ordinary | None
    bits: Ordinary | None
    residual: Ordinary | None
    y: Ordinary | None


class Wanted(NamedTuple):
    """Which gradients ``backward`` is asked for."""

    dx: bool = True
    parameters: bool = True
    dresidual: bool = True


def _parameters(call: Call, channels: int) -> tuple[int, Ordinary | None, Ordinary | None]:
    """Code of their dtype, γ and β without gaps."""
    weight = None if call.weight is None else as_vector(call.weight, channels)
    bias = None if call.bias is None else as_vector(call.bias, channels)
    if weight is None:
        return 0 if bias is None else DTYPES[bias.dtype], None, bias
    if bias is not None and bias.dtype is not weight.dtype:
        raise TypeError(
            f"expected weight and bias of one dtype, got {weight.dtype} and {bias.dtype}: "
            "convert one of them"
        )
    return DTYPES[weight.dtype], weight, bias


def movable(running: Running) -> Movable | None:
    """Running statistics that the kernels can move where they lie, or None."""
    mean, var, momentum = running
    if (
        not isinstance(momentum, Tensor)
        and mean.dtype is var.dtype
        and mean.is_contiguous()
        and var.is_contiguous()
        and is_ordinary(mean)
        and is_ordinary(var)
    ):
        return mean, var, momentum
    return None


def _new_statistics(channels: int, dtype: torch.dtype) -> Ordinary:
    return empty((3, channels), torch.float64 if dtype is torch.float64 else torch.float32)


def _addresses(statistics: Ordinary) -> tuple[int, int]:
    """Of the mean's two parts and of σ."""
    at = address(statistics)
    return at, at + 2 * statistics.shape[1] * statistics.element_size()


def forward(
    x: Tensor,
    residual: Tensor | None,
    call: Call,
    want_bits: bool,
    running: Movable | None,
    spare: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None, Layout]:
    """Normalize with the statistics of the batch.

    Args:
        x: input.
        residual: added before the activation.
        call: the other arguments.
        want_bits: also return the sign bits, if x̂ can be recovered from y.
        running: statistics to move in place, see ``l1bn.ops.running``, from ``movable``.
        spare: bytes to add after the bits, which are left as they are.

    Returns:
        ``(y, statistics, bits, layout)``. ``bits`` is None where x̂ cannot be recovered.
    """
    native = _native_or_raise()
    dense, layout = to_layout(x)
    parameter_code, weight, bias = _parameters(call, layout.channels)
    dtype = dense.dtype
    added = None if residual is None else as_layout(residual, layout, dtype)
    y = empty_like(dense)
    statistics = _new_statistics(layout.channels, dtype)
    bits = None
    if want_bits:
        bits = empty_run(native.bits_bytes(*layout) + spare, torch.uint8)
    code = DTYPES[dtype]
    activation, parameter = coded(call.activation)
    moved = (0, 0, 0, 0.0)
    if running is not None:
        mean, var, momentum = running
        moved = (address(mean), address(var), DTYPES[mean.dtype], momentum)
    bad = native.forward(
        _native.pack_forward(
            *layout,
            code,
            parameter_code,
            activation,
            torch.get_num_threads(),
            call.eps,
            parameter,
            address(dense),
            address(added),
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


def _laid_out(kept: Kept, dtype: torch.dtype, bits_bytes: int) -> _LaidOut:
    """What was kept as the kernels read it: saved tensors may come back with other strides."""
    layout, statistics, x, bits, residual, y, _ = kept
    return _LaidOut(
        as_vector(statistics, 3 * layout.channels),
        None if x is None else as_layout(x, layout, dtype),
        None if bits is None else as_vector(bits, bits_bytes),
        None if residual is None else as_layout(residual, layout, dtype),
        None if y is None else as_layout(y, layout, dtype),
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
    dense = as_layout(grad, layout, dtype)
    overwrite = overwrite or dense is not grad  # a copy is ours
    statistics, x, bits, residual, y = _laid_out(kept, dtype, native.bits_bytes(*layout))
    dweight = dbias = None
    if wanted.parameters:
        dweight, dbias = (empty((layout.channels,), statistics.dtype) for _ in range(2))
    activation, parameter = coded(call.activation)
    # Without an activation the residual's gradient is the output's.
    masked = wanted.dresidual and activation != 0
    dx = dresidual = None
    if masked:
        dresidual = alias(dense) if overwrite else empty_like(dense)
    if wanted.dx:
        dx = alias(dense) if overwrite and not wanted.dresidual else empty_like(dense)
    code = native.backward(
        _native.pack_backward(
            *layout,
            DTYPES[dtype],
            parameter_code,
            activation,
            torch.get_num_threads(),
            call.eps,
            parameter,
            address(dense),
            address(y),
            address(x),
            address(residual),
            address(bits),
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
    return dx, dweight, dbias, dense if wanted.dresidual and not masked else dresidual


def evaluate(
    x: Tensor, residual: Tensor | None, call: Call, running: Running
) -> tuple[Tensor, Tensor, bool, Layout]:
    """Normalize with running statistics.

    Returns:
        ``(y, statistics, recoverable, layout)``: the statistics are what ``backward`` needs,
        ``recoverable`` tells whether x̂ can be read back from y.
    """
    native = _native_or_raise()
    dense, layout = to_layout(x)
    parameter_code, weight, bias = _parameters(call, layout.channels)
    mean, var = (as_vector(v, layout.channels) for v in (running.mean, running.var))
    dtype = dense.dtype
    added = None if residual is None else as_layout(residual, layout, dtype)
    y = empty_like(dense)
    statistics = _new_statistics(layout.channels, dtype)
    code = DTYPES[dtype]
    activation, parameter = coded(call.activation)
    bad = native.evaluate(
        _native.pack_evaluate(
            *layout,
            code,
            parameter_code,
            activation,
            torch.get_num_threads(),
            call.eps,
            parameter,
            address(dense),
            address(added),
            address(weight),
            address(bias),
            address(mean),
            address(var),
            DTYPES[mean.dtype],
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
    output, dense = as_layout(y, layout, y.dtype), as_layout(value, layout, y.dtype)
    problem = y.numel(), DTYPES[y.dtype], activation, torch.get_num_threads(), address(output)
    count = native.count_alive(_native.pack_alive(*problem, 0, 0))
    _check(count)
    out = empty_run(count, value.dtype)
    _check(native.pack_alive(_native.pack_alive(*problem, address(dense), address(out))))
    return out


def unpack_alive(y: Tensor, packed: Tensor, layout: Layout, activation: int) -> Tensor:
    """Undo ``pack_alive``, with 0 where no gradient passes. The strides are the layout's."""
    native = _native_or_raise()
    output = as_layout(y, layout, y.dtype)
    out = empty_like(output)
    problem = y.numel(), DTYPES[y.dtype], activation, torch.get_num_threads(), address(output)
    count = native.count_alive(_native.pack_alive(*problem, 0, 0))
    _check(count)
    alive = as_vector(packed, count)
    _check(native.unpack_alive(_native.pack_alive(*problem, address(alive), address(out))))
    return out
