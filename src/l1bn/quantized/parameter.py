"""A parameter of an integer network: a 16-bit master, its momentum, and its 8-bit view."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from l1bn.fixed_point.scaling import peak_shift
from l1bn.fixed_point.update import SUM_BITS, sum_exponent
from l1bn.quantized.tensor import QTensor

HEADROOM = 2
"""How far a weight may grow beyond the largest initial one before its exponent must move."""

_FINEST = -30
"""Finest exponent of a master: weights that have collapsed must be able to grow again."""


class IntegerParameter(nn.Module):
    """Master weights and momentum, each with its exponent: all buffers are integers.

    Attributes:
        weight: Master weights, int16.
        momentum: Momentum, int16.
        exponents: Exponents of both, int32 (2,).
        decays: Whether weight decay acts on it.
        rate: Factor on the learning rate; 0 keeps the weights as they are.
        fixed_value: Whether it is a constant, whatever the rate.
        frozen: Whether it stays as it is, whatever the rate: the float parameter's
            ``requires_grad=False``, or what ``requires_grad_`` asked for.
        gradient: The sum of the gradients since the last step, or None.

    Args:
        value: The float parameter.
        bits: Bits of master and momentum [bit].
        exponent: Exponent of the master; None takes the one that leaves ``HEADROOM``.
        decays: Whether weight decay acts on it.
        name: Name of the float parameter, for errors.

    Raises:
        ValueError: If a value is not finite.
    """

    weight: Tensor
    momentum: Tensor
    exponents: Tensor

    def __init__(
        self,
        value: Tensor,
        bits: int = 16,
        exponent: int | None = None,
        decays: bool = False,
        name: str = "parameter",
    ) -> None:
        super().__init__()
        if not bool(torch.isfinite(value.detach()).all()):
            raise ValueError(
                f"{name}: expected finite values, got NaN or infinity; start from other weights"
            )
        self.bits = bits
        self.decays = decays
        self.rate = 1.0
        self.fixed_value = False
        self.frozen = isinstance(value, nn.Parameter) and not value.requires_grad
        self.gradient: QTensor | None = None
        if exponent is None:
            exponent = fitting_exponent(value, bits)
        self.register_buffer("weight", _quantize(value, exponent, bits))
        self.register_buffer("momentum", torch.zeros_like(self.weight))
        self.register_buffer("exponents", torch.tensor([exponent, 0], dtype=torch.int32))
        self._read_exponents()

    def _read_exponents(self) -> None:
        self.exponent, self.momentum_exponent = (int(e) for e in self.exponents)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._read_exponents()

    @property
    def trains(self) -> bool:
        """Whether the optimizer moves it."""
        return self.rate > 0 and not self.fixed_value and not self.frozen

    def requires_grad_(self, requires_grad: bool = True) -> IntegerParameter:
        """Freeze the weights, or let them train."""
        self.frozen = not requires_grad
        return self

    def add_gradient(self, values: Tensor, exponent: int) -> None:
        """Add the gradient of one more backward pass: ``l1bn.fixed_point.accumulate``."""
        if self.gradient is None:
            self.gradient = QTensor(values, exponent)
            return
        total = self.gradient
        peaks = [
            int(v.abs().max()) if v.numel() else 0 for v in (total.values.long(), values.long())
        ]
        out = sum_exponent(peaks[0], total.exponent, peaks[1], exponent)
        wide = in_steps(total.values, total.exponent - out) + in_steps(values, exponent - out)
        self.gradient = QTensor(wide, out)

    def get_extra_state(self) -> dict[str, int]:
        """Return the width, which the codes depend on."""
        return {"bits": self.bits}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Refuse codes of another width.

        Raises:
            ValueError: If the state was made with other master bits.
        """
        if state["bits"] != self.bits:
            raise ValueError(
                f"expected masters of {self.bits} bits, got {state['bits']}; prepare the network "
                f"with Config(master_bits={state['bits']})"
            )

    def forget_momentum(self) -> None:
        """Start anew from these weights."""
        self.momentum.zero_()
        self.moved(0)

    def moved(self, momentum_exponent: int) -> None:
        """Take note of the momentum's exponent after an update."""
        self.momentum_exponent = momentum_exponent
        self.exponents[1] = momentum_exponent

    def make_room(self) -> None:
        """Take a coarser exponent if the largest weight comes near the end of its range.

        The judge is ``l1bn.fixed_point.make_room``.
        """
        high = (1 << (self.bits - 1)) - 1
        if 4 * self._peak() <= 3 * high:
            return
        self.weight.copy_((self.weight.int() + 1) >> 1)
        self.exponent += 1
        self.exponents[0] = self.exponent

    def grow(self, rows: int) -> None:
        """Add rows of zeros, for outputs that were not there.

        Args:
            rows: How many there are then.
        """
        for name in ("weight", "momentum"):
            old = getattr(self, name)
            new = old.new_zeros((rows, *old.shape[1:]))
            new[: len(old)] = old
            last = torch.channels_last if new.dim() == 4 else torch.contiguous_format
            setattr(self, name, new.contiguous(memory_format=last))
        self.gradient = None

    def narrow(self) -> QTensor:
        """Return the 8-bit weights: rounded to nearest, in the finest exponent that holds them."""
        shift = peak_shift(self._peak())
        return QTensor(self._rounded(shift), self.exponent + shift)

    def fixed(self, exponent: int) -> Tensor:
        """Return the weights in 8 bits of a given exponent, saturated."""
        return self._rounded(exponent - self.exponent)

    def _peak(self) -> int:
        return int(self.weight.abs().max()) if self.weight.numel() else 0

    def _rounded(self, shift: int) -> Tensor:
        wide = self.weight.int()
        wide = wide << -shift if shift < 0 else (wide + ((1 << shift) >> 1)) >> shift
        return wide.clamp(-127, 127).to(torch.int8)

    def real(self) -> Tensor:
        """Return the numbers that the master stands for, in float32."""
        return torch.ldexp(self.weight.float(), torch.tensor(self.exponent))


def in_steps(value: Tensor, shift: int) -> Tensor:
    """Return ``value · 2**shift`` to nearest, int64."""
    wide = value.long()
    if shift >= 0:
        return wide << min(shift, SUM_BITS)
    down = min(-shift, SUM_BITS)
    return (wide + (1 << (down - 1))) >> down


def fitting_exponent(value: Tensor, bits: int) -> int:
    """Return the finest exponent that leaves ``HEADROOM`` above the largest value; ±8 for zeros."""
    peak = float(value.detach().abs().max()) if value.numel() else 0.0
    if peak == 0.0:
        return 4 - bits  # a range of ±8
    return max(math.ceil(math.log2(peak * HEADROOM)) - (bits - 1), _FINEST)


def _quantize(value: Tensor, exponent: int, bits: int) -> Tensor:
    scaled = torch.round(value.detach().double().cpu() * 2.0**-exponent)
    high = (1 << (bits - 1)) - 1
    weight = scaled.clamp(-high, high).to(torch.int16).to(value.device)
    return weight.contiguous(memory_format=torch.channels_last) if weight.dim() == 4 else weight
