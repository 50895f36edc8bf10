"""Reads convolutions and linear layers: their geometry, and masters of their weights."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor, nn

from l1bn.fixed_point.geometry import Geometry, Sides
from l1bn.quantized.config import Config
from l1bn.quantized.parameter import IntegerParameter, fitting_exponent
from l1bn.quantized.reading.spellings import UnsupportedError
from l1bn.quantized.reading.trace import Step
from l1bn.quantized.reading.windows import pair

Convolution = nn.Conv1d | nn.Conv2d
PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_BIAS_RANGE_BITS = 4  # a master of a bias holds ±8 at least


class ProductOptions(TypedDict):
    """What a product layer takes by name."""

    weight: IntegerParameter
    bias: IntegerParameter | None
    geometry: Geometry
    linear: bool


class Masters:
    """Makes the masters of a network's weights, one for each float parameter.

    Args:
        config: Says how many bits a master has.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._made: dict[int, IntegerParameter] = {}

    def product(self, step: Step, border: Sides = (0, 0, 0, 0)) -> ProductOptions:
        """Return weights and geometry of a convolution or linear layer.

        Args:
            step: The layer.
            border: Zeros that a padding before it adds above, below, left and right.
        """
        module = step.module
        assert isinstance(module, PRODUCTS)
        return ProductOptions(
            weight=self._weight(step, module.weight),
            bias=None if module.bias is None else self._bias(step, module.bias),
            geometry=Geometry()
            if isinstance(module, nn.Linear)
            else geometry_of(step.title, module, border),
            linear=isinstance(module, nn.Linear),
        )

    def _weight(self, step: Step, weight: Tensor) -> IntegerParameter:
        made = self._made.get(id(weight))
        if made is None:
            bits = self.config.at(step.name).master_bits
            value = weight
            if value.dim() < 4:  # a line is an image of one row, a linear layer's input one pixel
                wide = value.detach()[:, :, None] if value.dim() == 3 else value[..., None, None]
                value = nn.Parameter(wide.detach(), weight.requires_grad)
            made = IntegerParameter(value, bits, decays=True, name=f"{step.name}.weight")
            self._made[id(weight)] = made
        return made

    def _bias(self, step: Step, bias: Tensor) -> IntegerParameter:
        made = self._made.get(id(bias))
        if made is None:
            bits = self.config.at(step.name).master_bits
            exponent = max(_BIAS_RANGE_BITS - bits, fitting_exponent(bias, bits))
            made = IntegerParameter(bias, bits, exponent, name=f"{step.name}.bias")
            self._made[id(bias)] = made
        return made


def geometry_of(title: str, conv: Convolution, border: Sides) -> Geometry:
    """Return a convolution's geometry, with the zeros that a layer before it adds.

    Raises:
        UnsupportedError: If it pads by something else than zeros.
    """
    if conv.padding_mode != "zeros":
        raise UnsupportedError(
            f"{title}: expected padding_mode 'zeros', got {conv.padding_mode!r}; integer training "
            "pads by zeros only"
        )
    dilation = pair(conv.dilation, conv)
    kernel = pair(conv.kernel_size, conv)
    if isinstance(conv.padding, str):
        total = [
            d * (k - 1) if conv.padding == "same" else 0
            for d, k in zip(dilation, kernel, strict=True)
        ]
        own = (total[0] // 2, total[0] - total[0] // 2, total[1] // 2, total[1] - total[1] // 2)
    else:
        down, across = pair(conv.padding, conv, 0)
        own = (down, down, across, across)
    padding = tuple(a + b for a, b in zip(own, border, strict=True))
    return Geometry.of(pair(conv.stride, conv), padding, dilation, conv.groups)
