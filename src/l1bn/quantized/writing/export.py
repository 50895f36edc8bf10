"""Writes a trained integer network as arrays and a list of operations."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from l1bn.fixed_point.inference import FORMAT
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
    Window,
)
from l1bn.quantized.layers.pooling import INVERSE_BITS, inverse_count
from l1bn.quantized.layers.product import Product, aligned_bias
from l1bn.quantized.network import IntegerNetwork, as_images
from l1bn.quantized.tensor import QTensor


def export(network: IntegerNetwork, path: str | Path, example: QTensor) -> Path:
    """Write a network for inference; ``l1bn.fixed_point.inference.load_model`` runs it in NumPy.

    Exponents and everything folded from the running statistics are constants of the file. The
    logits are the integers that ``network.eval()`` gives.

    Args:
        network: A trained network.
        path: Where to write; ``.npz`` is added if it is missing.
        example: Images of the size and exponent that the network is for.

    Returns:
        The path of the file.

    Raises:
        ValueError: If the network has not been trained, so that its exponents are not known.
    """
    target = Path(path)
    target = target if target.suffix == ".npz" else target.with_name(target.name + ".npz")
    training = network.training
    network.eval()
    network.check(example.shape)
    try:
        writer = _Writer(network, as_images(example))
        writer.write_all()
    finally:
        network.train(training)
    temporary = target.with_name(target.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, graph=np.array(json.dumps(writer.graph())), **writer.arrays)
    os.replace(temporary, target)
    return target


class _Writer:
    """Collects operations; ``at`` maps a node to the place of its output."""

    def __init__(self, network: IntegerNetwork, example: QTensor) -> None:
        self.network = network
        self.example = example
        self.operations: list[dict[str, object]] = []
        self.arrays: dict[str, Any] = {}
        self.at: list[int] = []
        self.outputs: list[QTensor] = []

    def graph(self) -> dict[str, object]:
        """Return what the JSON text says."""
        return {
            "format": FORMAT,
            "operations": self.operations,
            "input_exponent": self.example.exponent,
            "output_exponent": self.outputs[-1].exponent,
        }

    def write_all(self) -> None:
        """Write every node, following the example's exponents and sizes."""
        for node in self.network.nodes:
            layer = self.network.layers[node.layer]
            assert isinstance(layer, IntegerLayer)
            inputs = [self.example if i < 0 else self.outputs[i] for i in node.inputs]
            places = [-1 if i < 0 else self.at[i] for i in node.inputs]
            write: Callable[..., int] = _WRITERS[type(layer)]
            self.at.append(write(self, layer, places, inputs))
            self.outputs.append(layer(*inputs))

    def add(self, kind: str, inputs: list[int], **fields: object) -> int:
        """Append an operation and return its place."""
        self.operations.append({"kind": kind, "inputs": inputs, **fields})
        return len(self.operations) - 1

    def array(self, layer: IntegerLayer, name: str, values: Tensor, dtype: str) -> str:
        """Store an array and return its name."""
        key = f"{layer.name}.{name}"
        self.arrays[key] = np.ascontiguousarray(values.cpu().numpy()).astype(dtype)
        return key

    def product(
        self, layer: IntegerLayer, product: Product, place: int, x: QTensor
    ) -> tuple[int, int]:
        """Write the sums; return their place and exponent."""
        weight = product.weight.narrow()
        exponent = x.exponent + weight.exponent
        bias = None
        if product.bias is not None:
            bias = self.array(layer, "bias", aligned_bias(product.bias, exponent), "int32")
        return self.add(
            "product",
            [place],
            weight=self.array(layer, "weight", weight.values, "int8"),
            bias=bias,
            geometry=product.geometry._asdict(),
        ), exponent

    def align(self, place: int, x: QTensor, exponent: int) -> int:
        """Write a change of exponent, where one is needed."""
        shift = exponent - x.exponent
        return place if shift == 0 else self.add("align", [place], shift=max(-16, min(shift, 16)))


def _known(layer: IntegerLayer, seen: bool) -> None:
    if not seen:
        raise ValueError(
            f"{layer.name}: expected a trained network, got one whose exponents are not known yet; "
            "run it on a few batches in training mode first"
        )


def _write_product(
    writer: _Writer, layer: ProductLayer, places: list[int], inputs: list[QTensor]
) -> int:
    place, exponent = writer.product(layer, layer.product, places[0], inputs[0])
    if layer.scaling is None:
        return place
    _known(layer, bool(layer.scaling.seen))
    return writer.add("rescale", [place], shift=layer.scaling.shift(0, exponent, False))


def _write_norm(
    writer: _Writer, layer: NormLayer | ProductNormLayer, places: list[int], inputs: list[QTensor]
) -> int:
    place, exponent = places[0], inputs[0].exponent
    _known(layer, bool(layer.norm.num_batches_tracked > 0))
    if isinstance(layer, ProductNormLayer):
        place, exponent = writer.product(layer, layer.product, place, inputs[0])
    shift = layer.norm.shift(exponent)
    if bool((shift != 0).any()):
        place = writer.add("rescale", [place], shift=writer.array(layer, "rescale", shift, "int32"))
    coefficient, offset, right = layer.rule.constants(shift + exponent, layer.norm)
    sources = [place]
    if len(places) > 1:
        fraction = layer.rule.spec.output.fraction
        sources.append(writer.align(places[1], inputs[1], -fraction))
    return writer.add(
        "normalize",
        sources,
        coefficient=writer.array(layer, "coefficient", coefficient, "int32"),
        offset=writer.array(layer, "offset", offset, "int64"),
        shift=writer.array(layer, "shift", right, "int32"),
        relu=layer.relu,
    )


def _write_aligned(
    writer: _Writer, layer: AddLayer | JoinLayer, places: list[int], inputs: list[QTensor]
) -> int:
    exponent = layer.exponent(*inputs)
    aligned = [writer.align(p, i, exponent) for p, i in zip(places, inputs, strict=True)]
    return writer.add("add" if isinstance(layer, AddLayer) else "join", aligned)


def _write_average(
    writer: _Writer, layer: AveragePoolLayer, places: list[int], inputs: list[QTensor]
) -> int:
    window = layer.window(inputs[0].shape[2:])
    options = _window(Window((window[0], window[1]), (window[0], window[1])), inputs[0])
    return _averages(writer, layer, places, inputs[0], options)


def _write_overlapping(
    writer: _Writer, layer: OverlappingAveragePoolLayer, places: list[int], inputs: list[QTensor]
) -> int:
    return _averages(writer, layer, places, inputs[0], _window(layer.window, inputs[0]))


def _averages(
    writer: _Writer,
    layer: AveragePoolLayer | OverlappingAveragePoolLayer,
    places: list[int],
    x: QTensor,
    options: dict[str, Any],
) -> int:
    _known(layer, bool(layer.scaling.seen))
    inverse = inverse_count(options["kernel"][0] * options["kernel"][1])
    place = writer.add("average", places, inverse=inverse, **options)
    shift = layer.scaling.shift(0, x.exponent - INVERSE_BITS, False)
    return writer.add("rescale", [place], shift=shift)


def _write_max_pool(
    writer: _Writer, layer: MaxPoolLayer, places: list[int], inputs: list[QTensor]
) -> int:
    return writer.add("max_pool", places, **_window(layer.window, inputs[0]))


def _window(window: Window, x: QTensor) -> dict[str, Any]:
    """Where windows lie in an image of this size."""
    return {
        "kernel": window.kernel,
        "stride": window.stride,
        "dilation": window.dilation,
        "output": window.output(x.shape[2:]),
        "borders": window.borders(x.shape[2:]),
    }


def _write_relu6(
    writer: _Writer, layer: Relu6Layer, places: list[int], inputs: list[QTensor]
) -> int:
    del layer
    return writer.add("relu6", places, exponent=inputs[0].exponent)


def _write_hardswish(
    writer: _Writer, layer: HardswishLayer, places: list[int], inputs: list[QTensor]
) -> int:
    del layer
    return writer.add("hardswish", places, exponent=inputs[0].exponent)


def _write_upsample(
    writer: _Writer, layer: UpsampleLayer, places: list[int], inputs: list[QTensor]
) -> int:
    del inputs
    return writer.add("upsample", places, scale=layer.scale)


def _write_pad(writer: _Writer, layer: PadLayer, places: list[int], inputs: list[QTensor]) -> int:
    del inputs
    return writer.add("pad", places, borders=layer.borders)


def _write_plain(kind: str) -> Callable[..., int]:
    def write(
        writer: _Writer, layer: IntegerLayer, places: list[int], inputs: list[QTensor]
    ) -> int:
        del layer, inputs
        return writer.add(kind, places)

    return write


def _write_identity(
    writer: _Writer, layer: IntegerLayer, places: list[int], inputs: list[QTensor]
) -> int:
    del writer, layer, inputs
    return places[0]


_WRITERS: dict[type[IntegerLayer], Callable[..., int]] = {
    ProductLayer: _write_product,
    ProductNormLayer: _write_norm,
    NormLayer: _write_norm,
    AddLayer: _write_aligned,
    JoinLayer: _write_aligned,
    AveragePoolLayer: _write_average,
    OverlappingAveragePoolLayer: _write_overlapping,
    MaxPoolLayer: _write_max_pool,
    Relu6Layer: _write_relu6,
    HardswishLayer: _write_hardswish,
    UpsampleLayer: _write_upsample,
    PadLayer: _write_pad,
    DropoutLayer: _write_identity,
    ReluLayer: _write_plain("relu"),
    FlattenLayer: _write_plain("flatten"),
    IdentityLayer: _write_identity,
}
