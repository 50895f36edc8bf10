"""The integer kernels of the normalization of 8-bit training, on torch tensors.

Thin functions over ``csrc/int8_norm/interface.h``, equal bit for bit to ``l1bn.fixed_point``, and
without a floating-point number. Tensors are dense with channels last in memory: images
(N, C, H, W) in ``torch.channels_last``, or (N, C). A real number is an integer times 2**exponent;
exponents are Python integers, or int32 tensors with one per channel. Source of the method:
Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from l1bn.ops.int8.checks import bits_of, channels_of, like, per_channel, rows_of, shift_of
from l1bn.ops.int8.elements import rounding
from l1bn.ops.native.library import INT8_NORM

if TYPE_CHECKING:
    from l1bn.fixed_point import NormSpec
    from l1bn.fixed_point.formats import Noise

available, isas, isa, select = (
    INT8_NORM.available,
    INT8_NORM.isas,
    INT8_NORM.isa,
    INT8_NORM.select,
)

_pack_forward = struct.Struct("20q").pack
_pack_apply = struct.Struct("11q").pack
_pack_sides = struct.Struct("6q").pack
_pack_backward = struct.Struct("20q2Q4q").pack


@dataclass(frozen=True)
class NativeState:
    """A ``NormState``: what a forward pass leaves for the backward pass and the running statistics.

    Attributes:
        count: Elements per channel, M.
        wide: Σx, the number of elements at or above the mean, and Σ|M·x − Σx|.
        narrow: The threshold at the mean, whether σ is above its floor, and coefficient, offset,
            shift and reciprocal's exponent of γ/σ.

    Shape:
        - wide: ``(3, C)`` int64
        - narrow: ``(6, C)`` int32
    """

    count: int
    wide: Tensor
    narrow: Tensor

    @property
    def total(self) -> Tensor:
        """Σx."""
        return self.wide[0]

    @property
    def above(self) -> Tensor:
        """Number of elements at or above the mean."""
        return self.wide[1]

    @property
    def deviation(self) -> Tensor:
        """Σ|M·x − Σx|, not below the floor."""
        return self.wide[2]

    @property
    def threshold(self) -> Tensor:
        """Smallest integer at or above the mean."""
        return self.narrow[0]

    @property
    def live(self) -> Tensor:
        """1 where σ is above its floor, else 0."""
        return self.narrow[1]

    @property
    def coefficient(self) -> Tensor:
        """γ/σ as an integer."""
        return self.narrow[2]

    @property
    def offset(self) -> Tensor:
        """What is added to x · coefficient."""
        return self.narrow[3]

    @property
    def shift(self) -> Tensor:
        """Right shift of the sum."""
        return self.narrow[4]

    @property
    def reciprocal(self) -> Tensor:
        """Exponent of 1/σ."""
        return self.narrow[5]


class Gradients(NamedTuple):
    """Gradients of the normalization layer.

    Attributes:
        dx: Input gradient, int8.
        exponent: Its exponent.
        dresidual: Gradient of the residual in the exponent of g, int8, or None.
        dgamma: Σg·x̂ per channel in steps of g, int64.
        dbeta: Σg per channel in steps of g, int64.
    """

    dx: Tensor
    exponent: int
    dresidual: Tensor | None
    dgamma: Tensor
    dbeta: Tensor


@lru_cache(maxsize=256)
def _spec(spec: NormSpec, count: int) -> tuple[int, ...]:
    if spec.width > 8:
        raise ValueError(f"spec: expected a width of at most 8 bits, got {spec.width}")
    floor = spec.deviation_floor(count)
    if floor >= 1 << 62:
        raise ValueError(f"spec: expected a floor below 2**62, got {floor}; lower floor_log2")
    return (
        spec.width,
        spec.mantissa_bits,
        int(spec.sigma == "pow2"),
        spec.shift_base,
        spec.output.fraction,
        floor,
    )


def norm_forward(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    spec: NormSpec,
    *,
    residual: Tensor | None = None,
    relu: bool = True,
) -> tuple[Tensor, NativeState]:
    """L1BN, residual and ReLU: ``l1bn.fixed_point.norm.layer.norm_layer_forward``.

    Args:
        x: Input, int8 of the format ``spec.data``.
        gamma: Scale, int8 of the format ``spec.gamma``.
        beta: Shift, int8 of the format ``spec.output``.
        spec: The formats, at most 8 bits wide.
        residual: Added before the ReLU, int8 of the format ``spec.output``.
        relu: Whether to end in a ReLU.

    Shape:
        - x, residual, Output: ``(N, C, H, W)`` or ``(N, C)``
        - gamma, beta: ``(C,)``

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If a shape, a layout or a number is wrong.
    """
    shape = rows_of("x", x, torch.int8, 2)
    return _forward(shape, x, gamma, beta, spec, residual=residual, relu=relu)


def norm_forward_fused(
    sums: Tensor,
    shift: int | Tensor,
    gamma: Tensor,
    beta: Tensor,
    spec: NormSpec,
    *,
    residual: Tensor | None = None,
    relu: bool = True,
) -> tuple[Tensor, Tensor, NativeState]:
    """``rescale`` to nearest and ``norm_forward`` of the result, one pass over memory less.

    Returns:
        x as ``rescale`` gives it in ``spec.width`` bits, y, and the state.

    Shape:
        - sums: ``(N, C, H, W)`` or ``(N, C)``, int32
        - shift: ``(C,)``
    """
    shape = rows_of("sums", sums, torch.int32, 2)
    x = torch.empty_like(sums, dtype=torch.int8)
    pair = shift_of(shift, shape[1])
    y, state = _forward(
        shape,
        x,
        gamma,
        beta,
        spec,
        sums=sums.data_ptr(),
        shift=pair,
        residual=residual,
        relu=relu,
    )
    return x, y, state


def _forward(
    shape: tuple[int, int, int],
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    spec: NormSpec,
    *,
    sums: int = 0,
    shift: tuple[int, int] = (0, 0),
    residual: Tensor | None,
    relu: bool,
) -> tuple[Tensor, NativeState]:
    rows, channels, _ = shape
    y = torch.empty_like(x)
    wide = torch.empty((3, channels), dtype=torch.int64)
    narrow = torch.empty((6, channels), dtype=torch.int32)
    block = _pack_forward(
        *shape,
        *_spec(spec, rows),
        sums,
        *shift,
        x.data_ptr(),
        channels_of("gamma", gamma, channels, torch.int8),
        channels_of("beta", beta, channels, torch.int8),
        like("residual", residual, x, torch.int8),
        int(relu),
        y.data_ptr(),
        wide.data_ptr(),
        narrow.data_ptr(),
    )
    INT8_NORM.call("norm_forward", block)
    return y, NativeState(rows, wide, narrow)


def norm_apply(
    x: Tensor,
    coefficient: Tensor,
    offset: Tensor,
    shift: Tensor,
    *,
    width: int = 8,
    residual: Tensor | None = None,
    relu: bool = True,
) -> Tensor:
    """``(x · coefficient + offset) / 2**shift`` to nearest, residual and ReLU: the evaluation.

    Args:
        x: Input, int8.
        coefficient: γ/σ, int32.
        offset: Offset, int32.
        shift: Right shift, int32, 1 to 30.
        width: Bits of y [bit].
        residual: Added before the ReLU, int8.
        relu: Whether to end in a ReLU.

    Shape:
        - x, residual, Output: ``(N, C, H, W)`` or ``(N, C)``
        - coefficient, offset, shift: ``(C,)``

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If a shape, a layout or a number is wrong.
    """
    shape = rows_of("x", x, torch.int8)
    y = torch.empty_like(x)
    block = _pack_apply(
        *shape,
        bits_of(width),
        x.data_ptr(),
        channels_of("coefficient", coefficient, shape[1], torch.int32),
        channels_of("offset", offset, shape[1], torch.int32),
        channels_of("shift", shift, shape[1], torch.int32),
        like("residual", residual, x, torch.int8),
        int(relu),
        y.data_ptr(),
    )
    INT8_NORM.call("norm_apply", block)
    return y


def norm_sides(x: Tensor, threshold: Tensor) -> Tensor:
    """Sum both sides of a threshold: ``l1bn.fixed_point.norm.constant.sides``.

    Args:
        x: int8.
        threshold: -128 to 128, int32.

    Returns:
        Σx, the number of elements at or above the threshold, and their sum, int64.

    Shape:
        - x: ``(N, C, H, W)`` or ``(N, C)``
        - threshold: ``(C,)``
        - Output: ``(3, C)``

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If a shape, a layout or a number is wrong.
    """
    shape = rows_of("x", x, torch.int8)
    address = channels_of("threshold", threshold, shape[1], torch.int32)
    low, high = map(int, threshold.aminmax())
    if low < -128 or high > 128:
        raise ValueError(f"threshold: expected -128 to 128, got {low} to {high}; clip it")
    out = torch.empty((3, shape[1]), dtype=torch.int64)
    INT8_NORM.call("norm_sides", _pack_sides(*shape, x.data_ptr(), address, out.data_ptr()))
    return out


def constant_state(
    count: int, total: Tensor, deviation: Tensor, coefficient: Tensor, shift: Tensor
) -> NativeState:
    """Give constant statistics the form in which ``norm_backward`` takes them.

    Args:
        count: Elements whose statistics these are.
        total: Σx, int64.
        deviation: Σ|M·x − Σx|, int64.
        coefficient: γ/σ, int32.
        shift: Shift of y, int32.

    Shape:
        - all but count: ``(C,)``
    """
    unread = torch.zeros_like(shift)
    wide = torch.stack([total, torch.zeros_like(total), deviation])
    narrow = torch.stack([unread, unread, coefficient, unread, shift, unread])
    return NativeState(count, wide, narrow)


def norm_backward(
    g: Tensor,
    x: Tensor,
    y: Tensor | None,
    state: NativeState,
    *,
    spec: NormSpec,
    g_exponent: int,
    x_exponent: int | Tensor,
    bits: int = 8,
    noise: Noise | None = None,
    residual: bool = False,
    constant: bool = False,
) -> Gradients:
    """Exact gradient of ``norm_forward``: ``l1bn.fixed_point.norm.layer.norm_layer_backward``.

    With constant statistics that of ``norm_apply``:
    ``l1bn.fixed_point.norm.constant.constant_layer_backward``.

    Args:
        g: Output gradient, int8.
        x: The forward input, int8.
        y: The forward output where it ended in a ReLU, or None.
        state: What the forward pass returned.
        spec: The formats.
        g_exponent: Exponent of g.
        x_exponent: Exponent of x, an int32 tensor of one per channel or a number.
        bits: Bits of dx [bit].
        noise: Random bits of dx; the counter is the place in memory.
        residual: Whether to return the gradient of the residual.
        constant: Whether the statistics do not depend on x; ``state`` is a ``constant_state`` then.

    Shape:
        - g, x, y: ``(N, C, H, W)`` or ``(N, C)``
        - x_exponent: ``(C,)``

    Raises:
        TypeError: If a dtype is wrong.
        ValueError: If a shape, a layout or a number is wrong.
    """
    shape = rows_of("x", x, torch.int8, 1 if constant else 2)
    rows, channels, _ = shape
    if (state.count != rows and not constant) or state.wide.shape[1] != channels:
        raise ValueError(
            f"state: expected that of {rows} elements in {channels} channels, got one of "
            f"{state.count} in {state.wide.shape[1]}; give what norm_forward returned for this x"
        )
    dx = torch.empty_like(x)
    dresidual = torch.empty_like(x) if residual else None
    sums = torch.empty((2, channels), dtype=torch.int64)
    dgamma, dbeta = sums.unbind()
    block = _pack_backward(
        *shape,
        *_spec(spec, rows),
        state.count if constant else 0,
        like("g", g, x, torch.int8),
        like("y", y, x, torch.int8),
        x.data_ptr(),
        state.wide.data_ptr(),
        state.narrow.data_ptr(),
        *per_channel("x_exponent", x_exponent, channels),
        g_exponent,
        bits_of(bits),
        *rounding(noise),
        dx.data_ptr(),
        0 if dresidual is None else dresidual.data_ptr(),
        dgamma.data_ptr(),
        dbeta.data_ptr(),
    )
    exponent = INT8_NORM.call("norm_backward", block)
    return Gradients(dx, exponent, dresidual, dgamma, dbeta)
