"""Turns the backward pass into steps: errors in reverse, each parameter moved at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from l1bn.device.program.blocks import Blocks
from l1bn.device.program.lowering import Lowering, keeps_order, raw, scratch_of
from l1bn.device.program.steps import INPUT, NONE, Kind, Mode, Op, Tensor, Window
from l1bn.device.program.windows import plain_window
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
from l1bn.quantized.layers.product import Product

_OFFSETS = 8 + 8 + 8
"""Bytes a channel of the gradients of γ and β, and of two offsets."""


@dataclass
class Backward:
    """Adds the backward steps of nodes, last first.

    Attributes:
        low: The forward pass.
        blocks: What may learn from step to step.
        errors: Error that has arrived at each node so far. A step may change it in place, so that
            no two nodes share one.
    """

    low: Lowering
    blocks: Blocks
    errors: dict[int, Tensor] = field(default_factory=dict)

    def loss(self) -> None:
        """Add the error of the logits."""
        low, last = self.low, len(self.low.network.nodes) - 1
        shape = low.shape_of(last)
        error = low.tensor(shape)
        window = low.made[last].window
        op = Op(Kind.LOSS, "loss", window, a=low.values[last], out=error)
        op.sums = raw(4 * shape.numel())
        low.ops.append(op)
        self.errors[last] = error

    def node(self, index: int) -> None:
        """Add the steps of a node, if an error has arrived there."""
        error = self.errors.pop(index, None)
        if error is not None:
            _BACKWARD[type(self.low.layer(index))](self, index, error)

    def wants(self, index: int, place: int = 0) -> bool:
        """Whether an input of a node takes an error."""
        source = self.low.network.nodes[index].inputs[place]
        return source != INPUT and self.low.layer(source).learns

    def send(self, index: int, place: int, error: Tensor) -> None:
        """Pass an error on to an input of a node; where two meet, they join."""
        source = self.low.network.nodes[index].inputs[place]
        have = self.errors.get(source)
        if have is None:
            self.errors[source] = error
            return
        fields = {"a": error, "out": have, "blocks": self.blocks.reach[source]}
        shape = self.low.shape_of(source)
        self.step(index, Kind.JOIN, plain_window(shape, shape), site=index, **fields)

    def step(self, index: int, kind: Kind, window: Window | None = None, **fields: object) -> Op:
        """Add a step of a node, with the sizes of its forward step or its own."""
        low = self.low
        layer = low.layer(index)
        if window is None:
            window = low.made[index].window
        fields.setdefault("site", layer.site)
        fields.setdefault("blocks", self.blocks.reach[index])
        op = Op(kind, layer.name, window, **fields)  # type: ignore[arg-type]
        low.ops.append(op)
        return op

    def before(self, index: int, place: int = 0) -> int:
        """Return the blocks for whose sake an input of a node takes an error."""
        return self.blocks.reach[self.low.network.nodes[index].inputs[place]]

    def product(self, index: int, product: Product, error: Tensor, macs: int) -> None:
        """Add gradient in the input and update of a product."""
        low, made = self.low, self.low.made[index]
        if self.wants(index):
            shape = low.shape_of(low.network.nodes[index].inputs[0])
            out = low.tensor(shape)
            self.step(
                index,
                Kind.PRODUCT_ERROR,
                a=error,
                out=out,
                weight=low.tables.parameter(product.weight),
                scratch=scratch_of(product.weight),
                sums=raw(4 * shape.numel()),
                macs=macs,
                blocks=self.before(index),
            )
            self.send(index, 0, out)
        self._update(index, product, error, made)

    def _update(self, index: int, product: Product, error: Tensor, made: Op) -> None:
        weight, bias = product.weight, product.bias
        if not weight.trains and (bias is None or not bias.trains):
            return
        parameter = self.low.tables.parameter
        trained = bias if bias is not None and bias.trains else None
        self.step(
            index,
            Kind.PRODUCT_UPDATE,
            a=error,
            x=made.a,
            weight=parameter(weight) if weight.trains else NONE,
            bias=parameter(trained),
            sums=raw(4 * weight.weight.numel()) if weight.trains else None,
            channels=raw(8 * trained.weight.numel()) if trained is not None else None,
            macs=made.macs if weight.trains else 0,
            blocks=self.blocks.own[index],
        )


def _product(back: Backward, index: int, error: Tensor) -> None:
    layer = back.low.layer(index)
    assert isinstance(layer, ProductLayer)
    back.product(index, layer.product, error, back.low.made[index].macs)


def _norm(back: Backward, index: int, error: Tensor) -> None:
    layer, made = back.low.layer(index), back.low.made[index]
    assert isinstance(layer, (NormLayer, ProductNormLayer))
    product = layer.product if isinstance(layer, ProductNormLayer) else None
    trained = product is not None and any(
        p is not None and p.trains for p in (product.weight, product.bias)
    )
    assert made.x is not None
    inner = Tensor(made.x.buffer) if trained or back.wants(index) else None
    back.step(
        index,
        Kind.NORM_ERROR,
        mode=Mode.BATCH if made.mode is Mode.BATCH else Mode.RUNNING,
        a=error,
        x=made.x,
        y=made.out if layer.relu else None,
        channels=made.channels,
        out=inner,
        sums=raw(_OFFSETS * made.window.out_channels),
        norm=made.norm,
        value=back.blocks.own[index].bit_length() - 1,
    )
    if inner is not None and product is not None:
        back.product(index, product, inner, made.macs)
    elif inner is not None:
        back.send(index, 0, inner)
    if made.b is not None and back.wants(index, 1):
        back.send(index, 1, error)  # masked by now


def _add(back: Backward, index: int, error: Tensor) -> None:
    first, second = back.wants(index), back.wants(index, 1)
    if first and second:
        copy = back.low.tensor(back.low.shape_of(index))
        back.step(index, Kind.COPY, a=error, out=copy, blocks=back.before(index, 1))
        back.send(index, 0, error)
        back.send(index, 1, copy)
    elif first or second:
        back.send(index, 0 if first else 1, error)


def _relu(back: Backward, index: int, error: Tensor) -> None:
    made = back.low.made[index]
    back.step(index, Kind.RELU_ERROR, a=error, y=made.out, flags=made.flags)
    if back.wants(index):
        back.send(index, 0, error)


def _dropout(back: Backward, index: int, error: Tensor) -> None:
    if not back.wants(index):
        return
    made = back.low.made[index]
    back.step(
        index,
        Kind.DROPOUT_ERROR,
        a=error,
        out=error,
        scale=made.scale,
        value=made.value,
        blocks=back.before(index),
    )
    back.send(index, 0, error)


def _hardswish(back: Backward, index: int, error: Tensor) -> None:
    if back.wants(index):
        x = back.low.made[index].a
        back.step(index, Kind.HARDSWISH_ERROR, a=error, out=error, x=x, blocks=back.before(index))
        back.send(index, 0, error)


def _join(back: Backward, index: int, error: Tensor) -> None:
    low, first = back.low, 0
    for place, source in enumerate(low.network.nodes[index].inputs):
        before = low.shape_of(source)
        if back.wants(index, place):
            out = low.tensor(before)
            window = plain_window(before, low.shape_of(index))
            blocks = back.before(index, place)
            back.step(index, Kind.PART, window, a=error, out=out, value=first, blocks=blocks)
            back.send(index, place, out)
        first += before[1]


def _through(back: Backward, index: int, error: Tensor) -> None:
    if back.wants(index):
        back.send(index, 0, error)


def _flatten(back: Backward, index: int, error: Tensor) -> None:
    before = back.low.shape_of(back.low.network.nodes[index].inputs[0])
    if keeps_order(before):
        _through(back, index, error)
    elif back.wants(index):
        out = back.low.tensor(before)
        back.step(index, Kind.FLATTEN_ERROR, a=error, out=out)
        back.send(index, 0, out)


def _pool(kind: Kind) -> Callable[[Backward, int, Tensor], None]:
    def add(back: Backward, index: int, error: Tensor) -> None:
        if not back.wants(index):
            return
        made = back.low.made[index]
        out = back.low.tensor(back.low.shape_of(back.low.network.nodes[index].inputs[0]))
        back.step(index, kind, a=error, out=out, x=made.x, flags=made.flags)
        back.send(index, 0, out)

    return add


_BACKWARD: dict[type[IntegerLayer], Callable[[Backward, int, Tensor], None]] = {
    ProductLayer: _product,
    ProductNormLayer: _norm,
    NormLayer: _norm,
    AddLayer: _add,
    ReluLayer: _relu,
    Relu6Layer: _relu,
    HardswishLayer: _hardswish,
    DropoutLayer: _dropout,
    FlattenLayer: _flatten,
    IdentityLayer: _through,
    AveragePoolLayer: _pool(Kind.AVERAGE_ERROR),
    OverlappingAveragePoolLayer: _pool(Kind.AVERAGE_ERROR),
    UpsampleLayer: _pool(Kind.UPSAMPLE_ERROR),
    PadLayer: _pool(Kind.PAD_ERROR),
    JoinLayer: _join,
    MaxPoolLayer: _pool(Kind.MAXIMUM_ERROR),
}
