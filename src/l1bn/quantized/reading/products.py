"""Reads convolutions and linear layers: their sizes, and masters of their weights."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor, nn

from l1bn.quantized.parameter import IntegerParameter, fitting_exponent
from l1bn.quantized.reading.spellings import UnsupportedError
from l1bn.quantized.reading.trace import Step

PRODUCTS = (nn.Conv2d, nn.Linear)
_BIAS_RANGE_BITS = 4  # a master of a bias holds ±8 at least


class _Geometry(TypedDict):
    linear: bool
    stride: int
    padding: int


class ProductOptions(_Geometry):
    """What a product layer takes by name."""

    weight: IntegerParameter
    bias: IntegerParameter | None


class Masters:
    """Makes the masters of a network's weights, one for each float parameter.

    Args:
        bits: Bits of a master [bit].
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._made: dict[int, IntegerParameter] = {}

    def product(self, step: Step) -> ProductOptions:
        """Return weights and geometry of a convolution or linear layer."""
        module = step.module
        assert isinstance(module, PRODUCTS)
        geometry = _Geometry(linear=True, stride=1, padding=0)
        if isinstance(module, nn.Conv2d):
            geometry = _conv_geometry(step.title, module)
        weight = self._weight(step, module.weight)
        bias = None if module.bias is None else self._bias(step, module.bias)
        return ProductOptions(weight=weight, bias=bias, **geometry)

    def _weight(self, step: Step, weight: Tensor) -> IntegerParameter:
        made = self._made.get(id(weight))
        if made is None:
            value = weight
            while value.dim() < 4:
                value = nn.Parameter(value.detach()[..., None], weight.requires_grad)
            made = IntegerParameter(value, self.bits, decays=True, name=f"{step.name}.weight")
            self._made[id(weight)] = made
        return made

    def _bias(self, step: Step, bias: Tensor) -> IntegerParameter:
        made = self._made.get(id(bias))
        if made is None:
            exponent = max(_BIAS_RANGE_BITS - self.bits, fitting_exponent(bias, self.bits))
            made = IntegerParameter(bias, self.bits, exponent, name=f"{step.name}.bias")
            self._made[id(bias)] = made
        return made


def _conv_geometry(title: str, conv: nn.Conv2d) -> _Geometry:
    expected = {
        "groups": (conv.groups, 1),
        "dilation": (conv.dilation, (1, 1)),
        "padding_mode": (conv.padding_mode, "zeros"),
        "stride": (conv.stride, (conv.stride[0],) * 2),
        "padding": (conv.padding, (conv.padding[0],) * 2),
    }
    for option, (got, needed) in expected.items():
        if got != needed:
            raise UnsupportedError(
                f"{title}: expected a convolution with {option} {needed}, got {got}; integer "
                "training has no other: replace the layer"
            )
    padding = conv.padding[0]
    assert isinstance(padding, int)
    return _Geometry(linear=False, stride=conv.stride[0], padding=padding)
