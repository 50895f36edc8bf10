"""The formats of one integer normalization, and the widths that its element count asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from l1bn.fixed_point.formats import Format

Sigma = Literal["exact", "pow2"]

#: √(2/π) and √(π/2) with sixteen fraction bits: the only constants of L1BN.
FRACTION_BITS = 16
INVERSE_K = 52290  # √(2/π) · 2**16 = 52290.17
K = 82137  # √(π/2) · 2**16 = 82137.19
#: Decision point of the power-of-two σ, √2 / √(π/2) = 1.1284, with seven fraction bits.
POW2_BITS = 7
POW2_POINT = 144


@dataclass(frozen=True)
class NormSpec:
    """Formats of an integer batch normalization.

    Attributes:
        width: Bits of x, y, g, dx, γ and β [bit], 4 to 16.
        coefficient_bits: Bits of the per-channel factor γ/σ [bit]; None takes ``width + 2``, which
            keeps its error under 0.4 % (8 bit) of the value at γ = 1.
        sigma: "exact" divides by σ; "pow2" rounds σ to the nearest power of two, so that the
            factor is γ itself and a shift.
        y_fraction: Fraction bits of y and β; None takes ``width - 4``: a range of ±8.
        gamma_fraction: Fraction bits of γ; None takes ``width - 2``: a range of ±2.
        dx_fraction: Fraction bits of dx beyond those of g/x; None takes ``y_fraction``.
        floor_log2: σ never falls below about ``2**floor_log2`` steps of x: the floor √eps.

    Raises:
        ValueError: If a width is out of range, or the shifts that the formats imply fall below 1.
    """

    width: int = 8
    coefficient_bits: int | None = None
    sigma: Sigma = "exact"
    y_fraction: int | None = None
    gamma_fraction: int | None = None
    dx_fraction: int | None = None
    floor_log2: int = -2

    def __post_init__(self) -> None:
        if not 4 <= self.width <= 16:
            raise ValueError(f"expected a width of 4 to 16 bits, got {self.width}; choose another")
        if self.sigma not in ("exact", "pow2"):
            raise ValueError(f"expected sigma 'exact' or 'pow2', got {self.sigma!r}")
        if not self.width <= self.mantissa_bits <= 24:
            raise ValueError(
                f"expected coefficient_bits of {self.width} to 24, got {self.mantissa_bits}; "
                "leave it None for width + 2"
            )
        for name, shift in (("y", self.shift_min), ("dx", self.shift_min + self.dx_shift)):
            if shift < 1:
                raise ValueError(
                    f"{name}: expected a shift of at least 1 at the floor of σ, got {shift}; "
                    "raise floor_log2, add coefficient_bits, or lower the fraction bits"
                )

    @property
    def mantissa_bits(self) -> int:
        """Bits of the reciprocal's mantissa and of the coefficient γ/σ [bit]."""
        return self.width + 2 if self.coefficient_bits is None else self.coefficient_bits

    @property
    def data(self) -> Format:
        """Format of x and g: integers, their exponents are the caller's."""
        return Format(self.width)

    @property
    def output(self) -> Format:
        """Format of y and β."""
        fraction = self.width - 4 if self.y_fraction is None else self.y_fraction
        return Format(self.width, fraction)

    @property
    def gamma(self) -> Format:
        """Format of γ."""
        fraction = self.width - 2 if self.gamma_fraction is None else self.gamma_fraction
        return Format(self.width, fraction)

    @property
    def gradient(self) -> Format:
        """Format of dx, in steps of g over steps of x."""
        default = self.output.fraction
        return Format(self.width, default if self.dx_fraction is None else self.dx_fraction)

    @property
    def coefficient(self) -> Format:
        """Format of the coefficient γ/σ; its exponent is the channel's shift."""
        return Format(self.mantissa_bits)

    @property
    def shift_base(self) -> int:
        """Shift of y minus the exponent of the reciprocal, see ``shift_min``."""
        return self.gamma.fraction - self.output.fraction - self.width

    @property
    def shift_min(self) -> int:
        """Shift of y at the floor of σ, the smallest there is."""
        lowest = self.mantissa_bits + self.floor_log2 + self.shift_base
        return lowest - 1 if self.sigma == "pow2" else lowest

    @property
    def shift_max(self) -> int:
        """Shift of y at the largest σ, √(π/2) · 2**(width-1) steps of x."""
        return self.mantissa_bits + self.width - 1 + self.shift_base

    @property
    def dx_shift(self) -> int:
        """Shift of dx minus the shift of y."""
        return self.output.fraction - self.gradient.fraction

    def deviation_floor(self, count: int) -> int:
        """Smallest Σ|M·x − S| of L1BN: 1/σ stays below ``2**-floor_log2``."""
        return _scale(INVERSE_K * count * count, self.floor_log2 - FRACTION_BITS) + 1

    def root_floor(self, count: int) -> int:
        """Smallest √(M·Σx² − S²) of L2BN: 1/σ stays below ``2**-floor_log2``."""
        return _scale(count, self.floor_log2) + 1


def _scale(value: int, log2: int) -> int:
    return value << log2 if log2 >= 0 else value >> -log2


def _log2_ceil(count: int) -> int:
    return (count - 1).bit_length()


@dataclass(frozen=True)
class Widths:
    """Bits that hold every intermediate of a channel of ``count`` elements, sign included.

    The proof of each is in docs/integers/fixed_point.md; tests drive every one to its extreme.

    Attributes:
        sum: Σx, Σg and the sum of the elements above the mean.
        product: Σg·x and Σx².
        deviation: Σ|M·x − S|, unsigned.
        covariance: M·Σg·x − S·Σg and M·Σx² − S².
        element: x·coefficient + offset, the widest value per element.
    """

    sum: int
    product: int
    deviation: int
    covariance: int
    element: int


def widths(spec: NormSpec, count: int) -> Widths:
    """Accumulator widths as a function of the element count.

    Raises:
        ValueError: If ``count`` is below 2.
    """
    if count < 2:
        raise ValueError(f"expected at least 2 elements per channel, got {count}; use a batch")
    grow = _log2_ceil(count)
    w, c, shift = spec.width, spec.mantissa_bits, spec.shift_max + max(0, spec.dx_shift)
    forward = (1 << (w + c - 1)) + (1 << (w - 1 + shift)) + (1 << shift)
    backward = (1 << (w + c)) + (1 << (w + c - 2)) + (1 << shift)
    return Widths(
        sum=spec.width + grow,
        product=2 * spec.width + grow,
        deviation=spec.width + 2 * grow,
        covariance=2 * spec.width + 2 * grow,
        element=max(forward, backward).bit_length() + 1,
    )


def check_accumulators(spec: NormSpec, count: int, bits: int = 32) -> Widths:
    """Refuse a channel whose tensor reductions do not fit ``bits``-bit accumulators.

    Raises:
        ValueError: Naming the reduction, the width it needs, and the largest count that fits.
    """
    need = widths(spec, count)
    for name, width in (("Σx", need.sum), ("Σg·x", need.product)):
        if width > bits:
            largest = 1 << (_log2_ceil(count) - (width - bits))
            raise ValueError(
                f"{name} of {count} elements of {spec.width} bits: expected at most {bits} bits, "
                f"needs {width}; reduce in blocks of {largest} elements or widen the accumulator"
            )
    return need
