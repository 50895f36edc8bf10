"""The native kernels as functions of tensors: no autograd, and no buffers but the running ones.

Written for a short call: a layer on sixteen values spends its time here, not in the kernels.
Statistics and gradients of parameters are float32, float64 for float64 tensors.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from l1bn.ops.cpu.layout import Layout, as_layout, to_layout
from l1bn.ops.native import float_norm as _native
from l1bn.ops.native.float_norm import Native

__all__ = [
    "ACTIVATIONS",
    "DTYPES",
    "NATIVE",
    "RECOVERY_LIMIT",
    "Running",
    "backward",
    "evaluate",
    "forward",
    "pack_alive",
    "unpack_alive",
]

#: The library, or why there is none.
NATIVE: Native | str = _native.load()
if isinstance(NATIVE, str):  # said once: the first call that looks for a backend imports this file
    warnings.warn(
        "expected l1bn's native CPU kernels, found none, so the slower eager backend runs: "
        + NATIVE,
        RuntimeWarning,
        stacklevel=2,
    )

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


def _check(code: int) -> None:
    if code == -2:
        raise MemoryError("the native kernels could not allocate their scratch memory")
    if code < 0:
        raise RuntimeError(f"the native kernels refused the call with code {code}")


def _parameter_dtype(weight: Tensor | None, bias: Tensor | None) -> int:
    if weight is not None:
        return DTYPES[weight.dtype]
    return 0 if bias is None else DTYPES[bias.dtype]


def _dense(vector: Tensor | None) -> Tensor | None:
    """A vector that the kernels can walk: a slice or an expanded number has gaps or one address."""
    return vector if vector is None or vector.is_contiguous() else vector.contiguous()


def _new_statistics(channels: int, dtype: torch.dtype) -> Tensor:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.empty((3, channels), dtype=wide)


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    eps: float,
    want_bits: bool,
    running: Running | None,
) -> tuple[Tensor, Tensor, Tensor | None, Layout]:
    """Normalize with the statistics of the batch.

    Args:
        x: input.
        weight: γ.
        bias: β.
        residual: added before the activation.
        activation: code of :data:`ACTIVATIONS`.
        eps: variance floor.
        want_bits: also return the sign bits, if x̂ can be recovered from y.
        running: statistics to move in place, see :mod:`l1bn.ops.running`.

    Returns:
        ``(y, statistics, bits, layout)``. ``bits`` is None where x̂ cannot be recovered.

    Shape:
        - statistics: :math:`(3, C)`: the mean in two parts whose sum it is (near a large mean one
          float32 cannot tell on which side of it a value lies), and σ
    """
    native = _native_or_raise()
    weight, bias = _dense(weight), _dense(bias)
    x, layout = to_layout(x)
    if residual is not None:
        residual = as_layout(residual, layout)
    outer, channels, inner = layout
    dtype = x.dtype
    y = torch.empty_like(x)
    statistics = _new_statistics(channels, dtype)
    at = statistics.data_ptr()
    bits = torch.empty(native.bits_bytes(*layout), dtype=torch.uint8) if want_bits else None
    code = DTYPES[dtype]
    moved = (0, 0, 0, 0.0)
    if running is not None:
        mean, var, momentum = running
        moved = (mean.data_ptr(), var.data_ptr(), DTYPES[mean.dtype], momentum)
    bad = native.forward(
        _native.pack_forward(
            outer,
            channels,
            inner,
            code,
            _parameter_dtype(weight, bias),
            activation,
            torch.get_num_threads(),
            eps,
            x.data_ptr(),
            0 if residual is None else residual.data_ptr(),
            0 if weight is None else weight.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            y.data_ptr(),
            at,
            at + 2 * channels * statistics.element_size(),
            0 if bits is None else bits.data_ptr(),
            RECOVERY_LIMIT[code],
            *moved,
        )
    )
    if bad:
        _check(bad)
        bits = None
    return y, statistics, bits, layout


def backward(
    grad: Tensor,
    layout: Layout,
    y: Tensor | None,
    x: Tensor | None,
    residual: Tensor | None,
    bits: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    activation: int,
    eps: float,
    want_dx: bool,
    want_parameters: bool,
    want_dresidual: bool,
    frozen: bool,
    overwrite: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Compute the gradients of :func:`forward` or, frozen, of :func:`evaluate`.

    Args:
        grad: gradient of the output.
        layout: layout of the forward call.
        y: output, needed with an activation and to recover x̂.
        x: input, or None to recover x̂ from ``y``, ``residual`` and ``bits``.
        residual: read only to recover x̂ under an activation.
        bits: sign bits, read only without ``x``.
        weight: γ.
        bias: β.
        statistics: those of the forward call.
        activation: code of :data:`ACTIVATIONS`.
        eps: variance floor.
        want_dx: whether to return dx.
        want_parameters: whether to return dγ and dβ.
        want_dresidual: whether to return the residual's gradient.
        frozen: the statistics are constants.
        overwrite: ``grad`` is nobody else's, and a result may take its memory.

    Returns:
        ``(dx, dγ, dβ, d residual)``, None where not wanted.
    """
    native = _native_or_raise()
    weight, bias = _dense(weight), _dense(bias)
    given, grad = grad, as_layout(grad, layout)
    overwrite = overwrite or grad is not given  # a copy is ours
    # Kept as they came, which costs no memory of their own: laid out again where they were strided.
    if x is not None:
        x = as_layout(x, layout)
    if residual is not None:
        residual = as_layout(residual, layout)
    outer, channels, inner = layout
    dweight = dbias = None
    if want_parameters:
        # Made like a tensor that is there where that serves: it costs half as much.
        if weight is not None and weight.dtype is statistics.dtype:
            dweight = torch.empty_like(weight)
        else:
            dweight = statistics.new_empty(channels)
        dbias = torch.empty_like(dweight)
    # Without an activation the residual's gradient is the output's.
    masked = want_dresidual and activation != 0
    dx = dresidual = None
    if masked:
        dresidual = grad.detach() if overwrite else torch.empty_like(grad)
    if want_dx:
        dx = grad.detach() if overwrite and not want_dresidual else torch.empty_like(grad)
    at = statistics.data_ptr()
    code = native.backward(
        _native.pack_backward(
            outer,
            channels,
            inner,
            DTYPES[grad.dtype],
            _parameter_dtype(weight, bias),
            activation,
            torch.get_num_threads(),
            eps,
            grad.data_ptr(),
            0 if y is None else y.data_ptr(),
            0 if x is None else x.data_ptr(),
            0 if residual is None else residual.data_ptr(),
            0 if bits is None else bits.data_ptr(),
            0 if weight is None else weight.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            at,
            at + 2 * channels * statistics.element_size(),
            0 if dx is None else dx.data_ptr(),
            0 if dresidual is None else dresidual.data_ptr(),
            0 if dweight is None else dweight.data_ptr(),
            0 if dbias is None else dbias.data_ptr(),
            frozen,
        )
    )
    if code:
        _check(code)
    return dx, dweight, dbias, grad if want_dresidual and not activation else dresidual


def evaluate(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    eps: float,
) -> tuple[Tensor, Tensor, bool, Layout]:
    """Normalize with running statistics.

    Returns:
        ``(y, statistics, recoverable, layout)``: the statistics are what :func:`backward` needs,
        ``recoverable`` tells whether x̂ can be read back from y.
    """
    native = _native_or_raise()
    weight, bias = _dense(weight), _dense(bias)
    running_mean, running_var = running_mean.contiguous(), running_var.contiguous()
    x, layout = to_layout(x)
    if residual is not None:
        residual = as_layout(residual, layout)
    y = torch.empty_like(x)
    statistics = _new_statistics(layout.channels, x.dtype)
    at = statistics.data_ptr()
    code = DTYPES[x.dtype]
    bad = native.evaluate(
        _native.pack_evaluate(
            *layout,
            code,
            _parameter_dtype(weight, bias),
            activation,
            torch.get_num_threads(),
            eps,
            x.data_ptr(),
            0 if residual is None else residual.data_ptr(),
            0 if weight is None else weight.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            running_mean.data_ptr(),
            running_var.data_ptr(),
            DTYPES[running_mean.dtype],
            y.data_ptr(),
            at,
            at + 2 * layout.channels * statistics.element_size(),
            RECOVERY_LIMIT[code],
        )
    )
    _check(bad)
    return y, statistics, bad == 0, layout


def pack_alive(y: Tensor, value: Tensor, activation: int) -> Tensor:
    """Return the elements of ``value`` where the activation passes a gradient.

    Args:
        y: output of an activation, dense.
        value: tensor of the same shape, dtype and strides.
        activation: code of :data:`ACTIVATIONS`, not 0.

    Shape:
        - Output: (elements alive), in the order of memory
    """
    native = _native_or_raise()
    problem = y.numel(), DTYPES[y.dtype], activation, torch.get_num_threads(), y.data_ptr()
    count = native.count_alive(_native.pack_alive(*problem, 0, 0))
    _check(count)
    out = torch.empty(count, dtype=value.dtype)
    native.pack_alive(_native.pack_alive(*problem, value.data_ptr(), out.data_ptr()))
    return out


def unpack_alive(y: Tensor, packed: Tensor, activation: int) -> Tensor:
    """Undo :func:`pack_alive`, with 0 where no gradient passes. The strides are those of y."""
    native = _native_or_raise()
    out = torch.empty_like(y)
    code = native.unpack_alive(
        _native.pack_alive(
            y.numel(),
            DTYPES[y.dtype],
            activation,
            torch.get_num_threads(),
            y.data_ptr(),
            packed.data_ptr(),
            out.data_ptr(),
        )
    )
    _check(code)
    return out
