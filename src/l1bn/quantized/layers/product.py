"""Convolution and linear layers: 8-bit products, 32-bit sums."""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.fixed_point.geometry import Geometry
from l1bn.fixed_point.scaling import peak_shift
from l1bn.quantized.kernels.interface import channels_last, per_channel
from l1bn.quantized.layers.base import Clock, IntegerLayer
from l1bn.quantized.parameter import IntegerParameter
from l1bn.quantized.scaling import OutputScale
from l1bn.quantized.tensor import QTensor

_GRADIENT, _ERROR = 0, 1
_TERMS = ((1 << 31) - 1) // (127 * 128)
"""Products of 8 bits whose sum fits 32 bits."""


class Product:
    """The sums of a convolution, and their gradients; a linear layer is a 1x1 convolution.

    It belongs to a layer, which says what happens to the 32-bit sums.

    Args:
        layer: The owner.
        name: Name of the float layer.
        weight: (K, C / groups, kh, kw).
        bias: (K,) or None.
        geometry: Strides, padding, dilation and groups.
        linear: Whether inputs and outputs are (N, C).
    """

    def __init__(
        self,
        layer: IntegerLayer,
        name: str,
        weight: IntegerParameter,
        bias: IntegerParameter | None,
        geometry: Geometry,
        linear: bool,
    ) -> None:
        self.layer, self.name, self.weight, self.bias = layer, name, weight, bias
        self.geometry, self.linear = geometry, linear
        self.config = layer.clock.config.at(name)
        self._x: QTensor | None = None
        self._w: QTensor | None = None

    def forward(self, x: QTensor) -> tuple[Tensor, Tensor, int]:
        """Return the sums (N, K, ...), the largest magnitude of each channel, and the exponent."""
        values = channels_last(x.values[:, :, None, None] if self.linear else x.values)
        w = self.weight.narrow()
        kernels = self.layer.clock.kernels(values)
        acc, peak = kernels.conv2d(values, w.values, self.geometry)
        exponent = x.exponent + w.exponent
        if self.bias is not None:
            acc = acc + per_channel(aligned_bias(self.bias, exponent), acc)
            peak = acc.abs().amax((0, 2, 3)).cpu()
        if self.layer.training:
            self._x, self._w = QTensor(values, x.exponent), w
        return (acc[:, :, 0, 0] if self.linear else acc), peak, exponent

    def backward(self, error: QTensor) -> QTensor | None:
        """Leave the gradients of weight and bias, and return the input's, if it is needed."""
        x, w = self._x, self._w
        if x is None or w is None:
            raise RuntimeError(f"{self.name}: expected a forward pass in training mode first")
        e = channels_last(error.values[:, :, None, None] if self.linear else error.values)
        kernels, layer = self.layer.clock.kernels(e), self.layer
        bits = self.config.error_bits
        if self.weight.trains:
            kernel = (w.shape[2], w.shape[3])
            acc = kernels.conv2d_weight_gradient(x.values, e, kernel, self.geometry)
            shift = peak_shift(int(acc.abs().max()), bits)
            values = kernels.rescale(channels_last(acc), shift, bits, layer.noise(_GRADIENT))
            self.weight.add_gradient(values, x.exponent + error.exponent + shift)
        if self.bias is not None and self.bias.trains:
            self.bias.add_gradient(e.sum((0, 2, 3), dtype=torch.int32), error.exponent)
        if not layer.needs_input_gradient:
            return None
        size = (x.shape[2], x.shape[3])
        acc, peak = kernels.conv2d_input_gradient(e, w.values, size, self.geometry)
        shift = peak_shift(int(peak.max()), bits)
        values = kernels.rescale(acc, shift, bits, layer.noise(_ERROR))
        exponent = error.exponent + w.exponent + shift
        return QTensor(values[:, :, 0, 0] if self.linear else values, exponent)

    def check(self, shape: torch.Size) -> torch.Size:
        """Return the shape of the sums, having refused those that could overflow 32 bits.

        In evaluation there is the output alone; training adds the sums of both gradients.

        Raises:
            ValueError: It names the layer, the sum and the largest batch that fits.
        """
        outputs, inputs, kh, kw = self.weight.weight.shape
        inputs *= self.geometry.groups
        if len(shape) != (2 if self.linear else 4) or shape[1] != inputs:
            expected = f"(N, {inputs})" if self.linear else f"(N, {inputs}, H, W)"
            raise ValueError(f"{self.name}: expected input of shape {expected}, got {tuple(shape)}")
        height, width = self.geometry.output((1, 1) if self.linear else shape[2:], (kh, kw))
        if min(height, width) < 1:
            span = self.geometry.span((kh, kw))
            raise ValueError(
                f"{self.name}: expected images of at least {span[0]} x {span[1]} pixels with their "
                f"padding of {self.geometry.padding}, got {tuple(shape)}; use larger images"
            )
        self._check_terms(shape[0], height * width)
        sums = (shape[0], outputs) if self.linear else (shape[0], outputs, height, width)
        return torch.Size(sums)

    def _check_terms(self, images: int, pixels: int) -> None:
        outputs, inputs, kh, kw = self.weight.weight.shape
        if self.bias is not None and inputs * kh * kw > _TERMS // 2:
            raise ValueError(
                f"{self.name}: expected sums of at most {_TERMS // 2} 8-bit products beside a "
                f"bias, got {inputs * kh * kw}; use fewer channels"
            )
        terms = {"output": (inputs * kh * kw, "use fewer channels")}
        if self.layer.training:
            batch = f"use batches of at most {_TERMS // pixels} images"
            met = outputs // self.geometry.groups * kh * kw
            terms["input gradient"] = (met, "use fewer channels")
            terms["weight gradient"] = (images * pixels, batch)
        for name, (count, way) in terms.items():
            if count > _TERMS:
                raise ValueError(
                    f"{self.name}: expected sums of at most {_TERMS} 8-bit products, which fit 32 "
                    f"bits, got {count} in the {name}; {way}"
                )

    def forget(self) -> None:
        """Drop what the forward pass kept."""
        self._x = self._w = None

    def kept(self) -> list[Tensor]:
        """Return the tensors that the forward pass kept."""
        return [t.values for t in (self._x, self._w) if t is not None]


def aligned_bias(bias: IntegerParameter, exponent: int) -> Tensor:
    """The bias in steps of the sums, rounded to nearest, below half of their range."""
    shift = bias.exponent - exponent
    value = bias.weight.long()
    value = value << min(shift, 40) if shift >= 0 else (value + (1 << (-shift - 1))) >> -shift
    return value.clamp(-(1 << 30), 1 << 30).int()


class ProductLayer(IntegerLayer):
    """A product whose sums become 8 bits with one exponent, or stay 32 bits: the logits.

    In evaluation the exponent is that of training, so that an output does not depend on the batch.

    Args:
        name: Name of the float layer.
        site: Number in the network.
        clock: The network's.
        weight: (K, C / groups, kh, kw).
        bias: (K,) or None.
        geometry: Strides, padding, dilation and groups.
        linear: Whether inputs and outputs are (N, C).
        wide: Leave the sums as they are.
    """

    def __init__(
        self,
        name: str,
        site: int,
        clock: Clock,
        *,
        weight: IntegerParameter,
        bias: IntegerParameter | None,
        geometry: Geometry,
        linear: bool = False,
        wide: bool = False,
    ) -> None:
        super().__init__(name, site, clock)
        self.weight, self.bias = weight, bias
        self.product = Product(self, name, weight, bias, geometry=geometry, linear=linear)
        self.scaling = None if wide else OutputScale()

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        return self.product.check(shapes[0])

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the sums in 8 bits, or in 32."""
        acc, peak, exponent = self.product.forward(inputs[0])
        if self.scaling is None:
            return QTensor(acc, exponent)
        shift = self.scaling.shift(int(peak.max()), exponent, self.training)
        values = self.clock.kernels(acc).rescale(acc, shift, 8, None)
        return QTensor(values, exponent + shift)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the gradient of the input."""
        return (self.product.backward(error),)

    def forget(self) -> None:
        """Drop what the forward pass kept."""
        self.product.forget()

    def kept(self) -> list[Tensor]:
        """Return the tensors that the forward pass kept."""
        return self.product.kept()
