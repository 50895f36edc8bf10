"""Turns layers into steps of the forward pass, of one image or a batch."""

from __future__ import annotations

from collections.abc import Callable

from l1bn.device.program import forward_windows as windows
from l1bn.device.program.lowering import Lowering, raw, scratch_of
from l1bn.device.program.steps import NONE, Flag, Kind, Mode, Window
from l1bn.device.program.windows import plain_window, product_window
from l1bn.quantized.layers import (
    AddLayer,
    AveragePoolLayer,
    DropoutLayer,
    FlattenLayer,
    HardswishLayer,
    IdentityLayer,
    IntegerLayer,
    JoinLayer,
    MaxPoolLayer,
    NormLayer,
    OverlappingAveragePoolLayer,
    PadLayer,
    ProductLayer,
    ProductNormLayer,
    Relu6Layer,
    ReluLayer,
    UpsampleLayer,
)
from l1bn.quantized.norms.l1 import L1Rule

CHANNEL_BYTES = 40
"""Size of ``l1bn_channel`` in csrc/device/arithmetic/channel.h [bytes]."""
FOLDED_BYTES = 8
"""Size of ``l1bn_folded`` in csrc/device/l1bn_device.h [bytes]."""
_LARGEST_COUNT = 1 << 17
"""Values of a channel whose sums of 8-bit products fit 32 bits."""


def forward(low: Lowering, index: int) -> None:
    """Add the steps of a node.

    Raises:
        ValueError: If its layer has no form on a device.
    """
    layer = low.layer(index)
    make = _FORWARD.get(type(layer))
    if make is None:
        raise ValueError(
            f"{layer.name}: expected a layer with a form on a device, got {type(layer).__name__}"
        )
    make(low, index)


def _macs(window: Window, images: int) -> int:
    outputs = images * window.out_height * window.out_width * window.out_channels
    return outputs * window.taps


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
    if not low.training or layer.frozen:
        return Mode.RUNNING
    return Mode.MOVING if layer.statistics == "running" else Mode.BATCH


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
    keeps, moves = low.learns(index), mode in (Mode.BATCH, Mode.MOVING)
    low.add(
        index,
        Kind.NORM,
        window,
        mode=mode,
        flags=_norm_flags(layer),
        a=low.source(index),
        b=low.source(index, 1) if len(inputs) > 1 else None,
        out=low.tensor(after),
        x=low.tensor(after) if moves or keeps else None,
        channels=raw(after[1] * CHANNEL_BYTES) if keeps else None,
        scratch=scratch_of(product.weight) if product else None,
        sums=raw(4 * pixels) if product and moves else None,
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


def _identity(low: Lowering, index: int) -> None:
    low.values[index] = low.source(index)


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


def _hardswish(low: Lowering, index: int) -> None:
    shape = low.shape_of(index)
    low.add(
        index,
        Kind.HARDSWISH,
        plain_window(shape, shape),
        a=low.source(index),
        out=low.tensor(shape),
    )


_FORWARD: dict[type[IntegerLayer], Callable[[Lowering, int], None]] = {
    ProductLayer: _product,
    ProductNormLayer: _norm,
    NormLayer: _norm,
    AddLayer: _add,
    ReluLayer: _relu,
    Relu6Layer: _relu,
    HardswishLayer: _hardswish,
    FlattenLayer: windows.flatten,
    IdentityLayer: _identity,
    DropoutLayer: _dropout,
    AveragePoolLayer: windows.average,
    OverlappingAveragePoolLayer: windows.overlapping_average,
    MaxPoolLayer: windows.maximum,
    UpsampleLayer: windows.upsample,
    PadLayer: windows.pad,
    JoinLayer: windows.join,
}
