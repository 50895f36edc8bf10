"""What flows through an integer network: integers and the power of two they count."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class QTensor:
    """A tensor of integers; it stands for ``values · 2**exponent``.

    Attributes:
        values: int8; int32 for logits.
        exponent: One for the whole tensor.

    Shape:
        - values: any; images ``(N, C, H, W)``, features and logits ``(N, C)``

    Raises:
        TypeError: If the values or the exponent are no integers.
    """

    values: torch.Tensor
    exponent: int

    def __post_init__(self) -> None:
        if getattr(self.values, "dtype", None) not in _INTEGERS:
            raise TypeError(
                f"expected values of a signed integer type, got {_type(self.values)}; quantize "
                "them first, for example with l1bn.quantized.quantize"
            )
        _check_exponent(self.exponent)

    @property
    def shape(self) -> torch.Size:
        """Shape of the values."""
        return self.values.shape

    def real(self) -> torch.Tensor:
        """The numbers it stands for, in float32: to look at, not to compute with."""
        return torch.ldexp(self.values.float(), torch.tensor(self.exponent))


def _check_exponent(exponent: object) -> None:
    if isinstance(exponent, bool) or not isinstance(exponent, int):
        raise TypeError(
            f"expected an integer exponent, got {exponent!r}; steps are powers of two: choose one"
        )


def _type(values: object) -> str:
    dtype = getattr(values, "dtype", None)
    return str(dtype) if dtype is not None else type(values).__name__


_CLIPPED = 0.05


def quantize(values: torch.Tensor, exponent: int) -> QTensor:
    """Round floating-point images or features to int8 in steps of ``2**exponent``.

    Args:
        values: What the network takes.
        exponent: −5 holds ±3.97, which suits normalized images.

    Returns:
        Integers of −127 to 127, four-dimensional ones in channels-last memory.

    Shape:
        - values: ``(N, C, H, W)`` or ``(N, C)``

    Raises:
        TypeError: If the values are no floating-point tensor, or the exponent is no integer.
        ValueError: If a value is not finite, or more than one in twenty does not fit.
    """
    if not isinstance(values, torch.Tensor) or not values.is_floating_point():
        raise TypeError(
            f"expected a floating-point tensor, got {_type(values)}; integers need no rounding: "
            "build a QTensor of them"
        )
    _check_exponent(exponent)
    if not bool(torch.isfinite(values).all()):
        raise ValueError("expected finite values, got NaN or infinity; clean the data first")
    steps = torch.round(torch.ldexp(values, torch.tensor(-exponent)))
    clipped = float((steps.abs() > 127).float().mean()) if values.numel() else 0.0
    if clipped > _CLIPPED:
        raise ValueError(
            f"expected values within ±{127 * 2.0**exponent:.4g}, got {clipped:.0%} outside, up to "
            f"{float(values.abs().max()):.4g}; choose a larger exponent or normalize first"
        )
    codes = steps.clamp(-127, 127).to(torch.int8)
    last = torch.channels_last if codes.dim() == 4 else torch.contiguous_format
    return QTensor(codes.contiguous(memory_format=last), exponent)
