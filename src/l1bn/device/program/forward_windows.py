"""Steps of the forward pass that move pixels and channels, or take windows of them."""

from __future__ import annotations

from dataclasses import replace

from l1bn.device.program.lowering import Lowering, keeps_order
from l1bn.device.program.steps import Flag, Kind, Window
from l1bn.device.program.windows import plain_window, pool_window, tiled_window
from l1bn.quantized.layers import (
    AveragePoolLayer,
    MaxPoolLayer,
    OverlappingAveragePoolLayer,
    PadLayer,
    UpsampleLayer,
)

_UNSIGNED = 0xFFFF
"""Fields of a window have 16 bits without a sign; a border that is cut away wraps around."""


def flatten(low: Lowering, index: int) -> None:
    """Channels first, where that is another order."""
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


def average(low: Lowering, index: int) -> None:
    """Means of windows that touch."""
    layer = low.layer(index)
    assert isinstance(layer, AveragePoolLayer)
    before, after = low.shapes_of(index)
    height, width = layer.window(before[2:])
    _means(low, index, tiled_window((height, width), before, after), Flag.DISJOINT)


def overlapping_average(low: Lowering, index: int) -> None:
    """Means of any windows; padding counts as zeros."""
    layer = low.layer(index)
    assert isinstance(layer, OverlappingAveragePoolLayer)
    _means(low, index, pool_window(layer.window, *low.shapes_of(index)), Flag(0))


def _means(low: Lowering, index: int, window: Window, flags: Flag) -> None:
    layer = low.layer(index)
    assert isinstance(layer, (AveragePoolLayer, OverlappingAveragePoolLayer))
    low.add(
        index,
        Kind.AVERAGE,
        window,
        flags=flags | (Flag.TRAINS if layer.training and low.training else Flag(0)),
        a=low.source(index),
        out=low.tensor(low.shape_of(index)),
        scale=low.tables.scales[id(layer.scaling)],
    )


def maximum(low: Lowering, index: int) -> None:
    """The largest number of each window, and its place where a backward pass follows."""
    layer = low.layer(index)
    assert isinstance(layer, MaxPoolLayer)
    before, after = low.shapes_of(index)
    low.add(
        index,
        Kind.MAXIMUM,
        pool_window(layer.window, before, after),
        a=low.source(index),
        out=low.tensor(after),
        x=low.tensor(after) if low.learns(index) else None,
        flags=Flag.DISJOINT if layer.window.disjoint else Flag(0),
    )


def upsample(low: Lowering, index: int) -> None:
    """Each pixel several times: the windows are of the output, one for each pixel of the input."""
    layer = low.layer(index)
    assert isinstance(layer, UpsampleLayer)
    before, after = low.shapes_of(index)
    window = tiled_window(layer.scale, after, before)
    low.add(index, Kind.UPSAMPLE, window, a=low.source(index), out=low.tensor(after))


def pad(low: Lowering, index: int) -> None:
    """Zeros around an image, or less of it."""
    layer = low.layer(index)
    assert isinstance(layer, PadLayer)
    before, after = low.shapes_of(index)
    left, _, top, _ = layer.borders
    window = replace(plain_window(before, after), top=top & _UNSIGNED, left=left & _UNSIGNED)
    low.add(index, Kind.PAD, window, a=low.source(index), out=low.tensor(after))


def join(low: Lowering, index: int) -> None:
    """The channels of several tensors: first their coarsest exponent, then each to its place."""
    after = low.shape_of(index)
    out, count = low.tensor(after), len(low.network.nodes[index].inputs)
    before = [low.shape_of(source) for source in low.network.nodes[index].inputs]
    for place in range(count):
        window = plain_window(before[place], after)
        source = low.source(index, place)
        low.add(index, Kind.COARSEST, window, a=source, out=out, value=int(place == 0))
    first = 0
    for place in range(count):
        window = plain_window(before[place], after)
        low.add(index, Kind.PLACE, window, a=low.source(index, place), out=out, value=first)
        first += before[place][1]
