"""Turns layers into steps: forward of one image or a batch, and backward of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from l1bn.device.learning import layer_of
from l1bn.device.program.steps import INPUT, NONE, Buffer, Flag, Kind, Mode, Op, Tensor, Window
from l1bn.quantized import IntegerNetwork
from l1bn.quantized.layers import (
    AddLayer,
    AveragePoolLayer,
    DropoutLayer,
    FlattenLayer,
    IdentityLayer,
    IntegerLayer,
    MaxPoolLayer,
    NormLayer,
    ProductLayer,
    ProductNormLayer,
    Relu6Layer,
    ReluLayer,
)
from l1bn.quantized.layers.product import Product
from l1bn.quantized.norms.l1 import L1Rule
from l1bn.quantized.parameter import IntegerParameter

CHANNEL_BYTES = 40
"""Size of ``l1bn_channel`` in csrc/device/arithmetic/channel.h [bytes]."""
FOLDED_BYTES = 8
"""Size of ``l1bn_folded`` in csrc/device/l1bn_device.h [bytes]."""
_LARGEST_COUNT = 1 << 17
"""Values of a channel whose sums of 8-bit products fit 32 bits."""


@dataclass
class Tables:
    """What steps refer to by number.

    Attributes:
        parameters: Weights, biases, γ and β, numbered as the network numbers them.
        norms: Layers with a norm.
        scales: Place of each output's exponent among the numbers of the state, by its id.
    """

    parameters: list[IntegerParameter]
    norms: list[NormLayer | ProductNormLayer]
    scales: dict[int, int]

    def parameter(self, parameter: IntegerParameter | None) -> int:
        """Return the number of a parameter."""
        if parameter is None:
            return NONE
        return next(i for i, p in enumerate(self.parameters) if p is parameter)

    def norm(self, layer: IntegerLayer) -> int:
        """Return the number of a layer's norm."""
        return next(i for i, n in enumerate(self.norms) if n is layer)


@dataclass
class Lowering:
    """Makes the steps of a range of nodes.

    Attributes:
        network: The network.
        tables: Its numbered parts.
        shapes: Shape of each node's output for this many images.
        shape: Shape of the images.
        values: Tensor of each node's output; of −1, the images.
        training: Whether a backward pass follows.
        ops: The steps so far.
    """

    network: IntegerNetwork
    tables: Tables
    shapes: Sequence[torch.Size]
    shape: torch.Size
    values: dict[int, Tensor]
    training: bool = False
    ops: list[Op] = field(default_factory=list)
    made: dict[int, Op] = field(default_factory=dict)

    def layer(self, index: int) -> IntegerLayer:
        """Return the layer of a node."""
        return layer_of(self.network, index)

    def shape_of(self, index: int) -> torch.Size:
        """Return the shape of a node's output; of −1, that of the images."""
        return self.shape if index == INPUT else self.shapes[index]

    def tensor(self, shape: torch.Size, size: int = 1) -> Tensor:
        """Return a new tensor of ``size`` bytes a number."""
        return raw(shape.numel() * size, shape[1:].numel() * size)

    def forward(self, index: int) -> None:
        """Add the step of a node."""
        layer = self.layer(index)
        make = _FORWARD.get(type(layer))
        if make is None:
            raise ValueError(
                f"{layer.name}: expected a layer with a form on a device, got "
                f"{type(layer).__name__}"
            )
        make(self, index)

    def source(self, index: int, place: int = 0) -> Tensor:
        """Return an input of a node."""
        return self.values[self.network.nodes[index].inputs[place]]

    def add(self, index: int, kind: Kind, window: Window, **fields: object) -> Op:
        """Add a step whose output is the node's."""
        layer = self.layer(index)
        op = Op(kind, layer.name, window, site=layer.site, **fields)  # type: ignore[arg-type]
        self.ops.append(op)
        self.made[index] = op
        if op.out is not None:
            self.values[index] = op.out
        return op

    def learns(self, index: int) -> bool:
        """Whether a backward pass goes through a node."""
        return self.training and self.layer(index).learns


def raw(size: int, image: int = 0) -> Tensor:
    """Return a new tensor of some bytes."""
    return Tensor(Buffer(size), image)


def plain_window(before: torch.Size, after: torch.Size) -> Window:
    """Return the sizes of a layer without a window."""
    height, width = before[2:] if len(before) == 4 else (1, 1)
    out_height, out_width = after[2:] if len(after) == 4 else (1, 1)
    return Window(height, width, before[1], out_height, out_width, after[1])


def product_window(product: Product, before: torch.Size, after: torch.Size) -> Window:
    """Return the sizes of a convolution or linear layer."""
    kh, kw = product.weight.weight.shape[2:]
    geometry = product.geometry
    return replace(
        plain_window(before, after),
        kernel_height=kh,
        kernel_width=kw,
        stride_y=geometry.stride[0],
        stride_x=geometry.stride[1],
        top=geometry.padding[0],
        left=geometry.padding[2],
        dilation_y=geometry.dilation[0],
        dilation_x=geometry.dilation[1],
        groups=geometry.groups,
    )


def _macs(window: Window, images: int) -> int:
    outputs = images * window.out_height * window.out_width * window.out_channels
    return outputs * window.taps


def scratch_of(parameter: IntegerParameter) -> Tensor | None:
    """Return room for the 8-bit weights of a parameter that learns."""
    return raw(parameter.weight.numel()) if parameter.trains else None


def _product(low: Lowering, index: int) -> None:
    layer = low.layer(index)
    assert isinstance(layer, ProductLayer)
    before, after = low.shape_of(low.network.nodes[index].inputs[0]), low.shape_of(index)
    wide = layer.scaling is None
    window = product_window(layer.product, before, after)
    low.add(
        index,
        Kind.PRODUCT,
        window,
        flags=Flag.WIDE if wide else Flag.TRAINS if layer.training and low.training else Flag(0),
        a=low.source(index),
        out=low.tensor(after, 4 if wide else 1),
        scratch=scratch_of(layer.weight),
        weight=low.tables.parameter(layer.weight),
        bias=low.tables.parameter(layer.bias),
        scale=NONE if layer.scaling is None else low.tables.scales[id(layer.scaling)],
        macs=_macs(window, before[0]),
    )


def _norm_flags(layer: NormLayer | ProductNormLayer) -> Flag:
    rule = layer.rule
    if type(rule) is not L1Rule:
        raise ValueError(
            f'{layer.name}: expected Config(norm="l1") or "none", got {type(rule).__name__}; the '
            "other norms are baselines to measure against"
        )
    flags = Flag.RELU if layer.relu else Flag(0)
    flags |= Flag(0) if rule.per_channel else Flag.SHARED_SHIFT
    return flags | (Flag.POW2 if rule.spec.sigma == "pow2" else Flag(0))


def _mode(low: Lowering, layer: NormLayer | ProductNormLayer) -> Mode:
    if not layer.training:
        return Mode.FOLDED
    if low.training and layer.statistics == "running":
        raise ValueError(
            f'{layer.name}: expected statistics "batch" or "frozen" where it learns on a device, '
            'got "running"; prepare it with Config(statistics=…), or call freeze_statistics()'
        )
    return Mode.BATCH if low.training and not layer.frozen else Mode.RUNNING


def _norm(low: Lowering, index: int) -> None:
    layer = low.layer(index)
    assert isinstance(layer, (NormLayer, ProductNormLayer))
    inputs, after = low.network.nodes[index].inputs, low.shape_of(index)
    before, mode = low.shape_of(inputs[0]), _mode(low, layer)
    pixels = after[0] * after[2:].numel()
    if mode is not Mode.FOLDED and pixels > _LARGEST_COUNT:
        raise ValueError(
            f"{layer.name}: expected at most {_LARGEST_COUNT} values per channel, whose sums fit "
            f"32 bits, got {pixels}; use a smaller batch"
        )
    product = layer.product if isinstance(layer, ProductNormLayer) else None
    window = product_window(product, before, after) if product else plain_window(before, after)
    keeps = low.learns(index)
    low.add(
        index,
        Kind.NORM,
        window,
        mode=mode,
        flags=_norm_flags(layer),
        a=low.source(index),
        b=low.source(index, 1) if len(inputs) > 1 else None,
        out=low.tensor(after),
        x=low.tensor(after) if mode is Mode.BATCH or keeps else None,
        channels=raw(after[1] * CHANNEL_BYTES) if keeps else None,
        scratch=scratch_of(product.weight) if product else None,
        sums=raw(4 * pixels) if product and mode is Mode.BATCH else None,
        norm=low.tables.norm(layer),
        weight=low.tables.parameter(product.weight if product else None),
        bias=low.tables.parameter(product.bias if product else None),
        macs=_macs(window, before[0]) if product else 0,
    )


def _add(low: Lowering, index: int) -> None:
    layer = low.layer(index)
    assert isinstance(layer, AddLayer)
    shape = low.shape_of(index)
    low.add(
        index,
        Kind.ADD,
        plain_window(shape, shape),
        a=low.source(index),
        b=low.source(index, 1),
        out=low.tensor(shape),
        value=layer.fraction,
    )


def _relu(low: Lowering, index: int) -> None:
    shape = low.shape_of(index)
    limited = isinstance(low.layer(index), Relu6Layer)
    low.add(
        index,
        Kind.RELU,
        plain_window(shape, shape),
        flags=Flag.SIX if limited else Flag(0),
        a=low.source(index),
        out=low.tensor(shape),
    )


def keeps_order(shape: torch.Size) -> bool:
    """Whether channels first and channels last are the same order."""
    return len(shape) == 2 or shape[1] == 1 or math.prod(shape[2:]) == 1


def _flatten(low: Lowering, index: int) -> None:
    before = low.shape_of(low.network.nodes[index].inputs[0])
    if keeps_order(before):
        low.values[index] = low.source(index)
        return
    after = low.shape_of(index)
    low.add(
        index,
        Kind.FLATTEN,
        plain_window(before, after),
        a=low.source(index),
        out=low.tensor(after),
    )


def _identity(low: Lowering, index: int) -> None:
    low.values[index] = low.source(index)


def _average(low: Lowering, index: int) -> None:
    layer = low.layer(index)
    assert isinstance(layer, AveragePoolLayer)
    before, after = low.shape_of(low.network.nodes[index].inputs[0]), low.shape_of(index)
    kh, kw = layer.window(before[2:])
    sides = {"kernel_height": kh, "kernel_width": kw, "stride_y": kh, "stride_x": kw}
    low.add(
        index,
        Kind.AVERAGE,
        replace(plain_window(before, after), **sides),
        flags=Flag.TRAINS if layer.training and low.training else Flag(0),
        a=low.source(index),
        out=low.tensor(after),
        scale=low.tables.scales[id(layer.scaling)],
    )


def _maximum(low: Lowering, index: int) -> None:
    layer = low.layer(index)
    assert isinstance(layer, MaxPoolLayer)
    window = layer.window
    before, after = low.shape_of(low.network.nodes[index].inputs[0]), low.shape_of(index)
    low.add(
        index,
        Kind.MAXIMUM,
        replace(
            plain_window(before, after),
            kernel_height=window.kernel[0],
            kernel_width=window.kernel[1],
            stride_y=window.stride[0],
            stride_x=window.stride[1],
            top=window.padding[0],
            left=window.padding[1],
            dilation_y=window.dilation[0],
            dilation_x=window.dilation[1],
        ),
        a=low.source(index),
        out=low.tensor(after),
        x=low.tensor(after) if low.learns(index) else None,
        flags=Flag.DISJOINT if window.disjoint else Flag(0),
    )


def _dropout(low: Lowering, index: int) -> None:
    layer, shape = low.layer(index), low.shape_of(index)
    assert isinstance(layer, DropoutLayer)
    if not (layer.training and low.training):
        _identity(low, index)
        return
    low.add(
        index,
        Kind.DROPOUT,
        plain_window(shape, shape),
        a=low.source(index),
        out=low.tensor(shape),
        scale=layer.keep - 1,
        value=int(layer.channels),
    )


_FORWARD: dict[type[IntegerLayer], Callable[[Lowering, int], None]] = {
    ProductLayer: _product,
    ProductNormLayer: _norm,
    NormLayer: _norm,
    AddLayer: _add,
    ReluLayer: _relu,
    Relu6Layer: _relu,
    FlattenLayer: _flatten,
    IdentityLayer: _identity,
    DropoutLayer: _dropout,
    AveragePoolLayer: _average,
    MaxPoolLayer: _maximum,
}
