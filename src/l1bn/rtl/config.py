"""The parameters of a unit, and every width that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from l1bn.fixed_point import NormSpec, Widths, widths
from l1bn.fixed_point.norm.spec import FRACTION_BITS, INVERSE_K


@dataclass(frozen=True)
class UnitConfig:
    """One training unit: forward and backward of one channel at a time.

    Attributes:
        norm: "l1" (mean absolute deviation) or "l2" (standard deviation, the baseline).
        width: Bits of x, y, g, dx, γ and β [bit], 4 to 16.
        elements: Elements per channel N, a power of two from 8 to 65536; with ``counted`` the most
            that a channel may have.
        multipliers: Multipliers of the element path, 1 or 2. L1 has a use for the second only where
            channels overlap.
        sigma: "exact", or "pow2" for a power-of-two σ (L1 only).
        passes: Passes over x for the statistics: 2, or 1. One pass is Σx, Σx² for L2; for L1 it is
            the expansion around the previous batch's mean, repeated exactly where it is too far.
        overlap: Channels overlap: the statistics of the next channels are taken in the clocks in
            which this one occupies the multiplier. L1 in two passes; L2 in two passes on one
            multiplier or in one pass on two, or on one multiplier and a squarer.
        squarer: Σx² of the next channel has a squarer of its own beside the one multiplier, folded:
            half the partial products (L2 with overlap, in one pass).
        counted: A command sets N, any number from 2 to ``elements``. Divisions by N replace shifts.

    Raises:
        ValueError: If a parameter is out of range or the combination does not exist.
    """

    norm: Literal["l1", "l2"] = "l1"
    width: int = 8
    elements: int = 256
    multipliers: int = 1
    sigma: Literal["exact", "pow2"] = "exact"
    passes: int = 2
    overlap: bool = False
    counted: bool = False
    squarer: bool = False

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2"):
            raise ValueError(f"norm: expected 'l1' or 'l2', got {self.norm!r}")
        n = self.elements
        if not 8 <= n <= 65536 or n & (n - 1):
            raise ValueError(
                f"elements: expected a power of two from 8 to 65536, got {n}; elements of padding "
                "would change every result: take the next power of two, with counted=True, and set "
                "the number by a command"
            )
        if self.passes not in (1, 2):
            raise ValueError(f"passes: expected 1 or 2, got {self.passes}")
        if self.multipliers not in (1, 2):
            raise ValueError(f"multipliers: expected 1 or 2, got {self.multipliers}")
        if self.norm == "l1" and self.multipliers == 2 and not self.overlap:
            raise ValueError(
                "multipliers: expected 1 for L1BN, got 2; no pass of L1BN multiplies twice "
                "per element (with overlap=True, two passes do)"
            )
        if self.norm == "l2" and self.sigma == "pow2":
            raise ValueError("sigma: expected 'exact' for L2BN, got 'pow2'")
        if self.counted and self.sigma == "pow2":
            raise ValueError(
                "sigma: expected 'exact' with counted=True, got 'pow2'; a unit without a divider "
                "divides by powers of two only"
            )
        if self.squarer:
            self._check_squarer()
        elif self.overlap:
            self._check_overlap()
        _ = self.spec  # checks the width

    def _check_overlap(self) -> None:
        if self.norm == "l1" and self.passes == 1:
            raise ValueError(
                "overlap: expected 2 passes for L1BN, got 1; overlapped, the second pass takes no "
                "time and needs no guess"
            )
        if self.norm == "l2" and self.passes + self.multipliers != 3:
            raise ValueError(
                "overlap: expected for L2BN 2 passes on 1 multiplier or 1 pass on 2, got "
                f"passes={self.passes}, multipliers={self.multipliers}"
            )

    def _check_squarer(self) -> None:
        fits = self.norm == "l2" and self.overlap and self.passes == 1 and self.multipliers == 1
        if not fits:
            raise ValueError(
                "squarer: expected norm='l2', overlap=True, passes=1 and multipliers=1 beside it, "
                f"got norm={self.norm!r}, overlap={self.overlap}, passes={self.passes}, "
                f"multipliers={self.multipliers}; elsewhere a multiplier is free for the squares"
            )

    @property
    def side(self) -> bool:
        """Whether a second product has an accumulator of its own, for the next channel."""
        return self.overlap and (self.multipliers == 2 or self.squarer)

    @property
    def holds_total(self) -> bool:
        """Whether Σx of a channel is held while that of the next one accumulates."""
        return self.overlap and self.passes == 2

    @property
    def overlaps_gradient(self) -> bool:
        """Whether the reduction of the next channel runs beside the gradient of this one."""
        return self.norm == "l1" and self.side

    @property
    def name(self) -> str:
        """Short name, unique per configuration, such as ``l1_w8_n256_m1_p2``."""
        options = ("_pow2" if self.sigma == "pow2" else "") + ("_overlap" if self.overlap else "")
        options += "_squarer" * self.squarer + "_counted" * self.counted
        size = f"w{self.width}_n{self.elements}"
        return f"{self.norm}_{size}_m{self.multipliers}_p{self.passes}{options}"

    @property
    def spec(self) -> NormSpec:
        """The formats, shared with ``l1bn.fixed_point``."""
        return NormSpec(width=self.width, sigma=self.sigma)

    @property
    def log2_elements(self) -> int:
        """log2 N, called L below."""
        return self.elements.bit_length() - 1

    @property
    def need(self) -> Widths:
        """Accumulator widths."""
        return widths(self.spec, self.elements)

    @property
    def coefficient(self) -> int:
        """Bits of the coefficient γ/σ."""
        return self.spec.mantissa_bits

    @property
    def shift_bits(self) -> int:
        """Bits of the output shift, counted from its smallest value."""
        return (self.spec.shift_max - self.spec.shift_min).bit_length()

    @property
    def operand(self) -> int:
        """Bits of the multiplier's element port: L2's second pass multiplies x − ⌊μ⌋."""
        return self.width + 1 if self.norm == "l2" and self.passes == 2 else self.width

    @property
    def element(self) -> int:
        """Bits of the element adder, accumulator of Σg·x and Σx² at once."""
        return max(self.need.product, self.need.element)

    @property
    def quotient(self) -> int:
        """Magnitude bits of q = Σg·(x−μ)/Σ|x−μ| in steps of g/N; of dγ for L2."""
        return self.width + self.log2_elements

    @property
    def longest_quotient(self) -> int:
        """Bits of the divider's quotient."""
        return max(self.quotient, self.by_count) if self.counted else self.quotient

    @property
    def by_count(self) -> int:
        """Bits of a quotient by N, with its sign: an offset of dx or, for L1, 2·q·n/N.

        One size for all, a few clocks longer than some would need: it is cheaper than several.
        """
        offset = self.width + self.coefficient + 1
        return max(offset, self.quotient + 2) if self.norm == "l1" else offset

    @property
    def divisor(self) -> int:
        """Magnitude bits of Σ|N·x − S|, or of the root for L2."""
        return self.quotient + (self.log2_elements if self.norm == "l1" else 0)

    @property
    def scalar(self) -> int:
        """Bits of the scalar multiplier's accumulator."""
        w, grow, c = self.width, self.log2_elements, self.coefficient
        constant = FRACTION_BITS + 2 + self.quotient if self.norm == "l1" else 0
        most = max(self.need.covariance + 1, c + self.quotient + 3, constant, w + grow + c + 4)
        if self.counted:
            most = max(most, grow + self.by_count + 1)
        if self.counted and self.norm == "l1":
            most = max(most, 2 * w + 3 * grow, constant + grow)  # N·Σg·(N·x − S), √(2/π)·N²
        return most

    @property
    def multiplier_bits(self) -> int:
        """Bits of the scalar multiplier's second operand."""
        constant = FRACTION_BITS + 2 if self.norm == "l1" else 0
        one_hot = self.spec.shift_max + 1
        return max(self.need.sum + 1, self.coefficient, one_hot, constant)

    @property
    def divisor_scale(self) -> int:
        """Left shift of the divisor that makes the dividend of 1/σ an integer."""
        if self.norm == "l2" or self.counted:
            return 0
        return max(0, FRACTION_BITS - self.spec.floor_log2 - 2 * self.log2_elements)

    @property
    def dividend_fraction(self) -> int:
        """Bits of the dividend of 1/σ behind the point, where N is no constant."""
        if not self.counted:
            return 0
        return -self.spec.floor_log2 + (FRACTION_BITS if self.norm == "l1" else 0)

    @property
    def dividend(self) -> int:
        """Dividend of 1/σ: the largest 1/σ, scaled as the divisor. N is a constant."""
        floor = self.spec.floor_log2
        if self.norm == "l2":
            return self.elements >> -floor
        shift = 2 * self.log2_elements + self.divisor_scale - FRACTION_BITS + floor
        return INVERSE_K << shift
