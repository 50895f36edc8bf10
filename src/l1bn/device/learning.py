"""Chooses which layers of a network learn; what comes before them is evaluated and kept nowhere."""

from __future__ import annotations

from typing import Literal

from l1bn.quantized import IntegerNetwork
from l1bn.quantized.layers import IntegerLayer
from l1bn.quantized.layers.norm import NormalizingLayer
from l1bn.quantized.parameter import IntegerParameter

Learn = Literal["all", "classifier", "affine", "none"] | int
"""All layers, the last with weights, all γ, β and biases, nothing, or the last k with weights."""


def choose(network: IntegerNetwork, learn: Learn) -> None:
    """Let some layers learn and freeze the others, as a device will.

    Layers before the first that learns go into evaluation mode: they normalize by their running
    statistics. ``network.train()`` would take them out of it: call ``choose`` again after it.

    Args:
        network: The network; its weights stay as they are.
        learn: "all"; "classifier", the last layer with weights; a number, the last so many layers
            with weights; "affine", every γ, β and bias; "none".

    Raises:
        ValueError: If it is none of these, or the network has fewer layers with weights.
    """
    layers = [layer_of(network, i) for i in range(len(network.nodes))]
    weighted = [i for i, layer in enumerate(layers) if _parameters(layer)]
    first = _first(learn, weighted)
    network.train()
    for i, layer in enumerate(layers):
        layer.train(learn != "none" and i >= first)
        for parameter in _parameters(layer):
            parameter.frozen = i < first or learn == "none"
        weight = getattr(layer, "weight", None)
        if learn == "affine" and weight is not None:
            weight.frozen = True
    network.mark_needed_gradients()


def _first(learn: Learn, weighted: list[int]) -> int:
    """Return the first layer that learns."""
    count = {"all": len(weighted), "affine": len(weighted), "classifier": 1, "none": 0}.get(
        str(learn), learn
    )
    if isinstance(count, bool) or not isinstance(count, int):
        raise ValueError(
            'expected "all", "classifier", "affine", "none" or a number of layers to learn, got '
            f"{learn!r}"
        )
    if not 0 <= count <= len(weighted):
        raise ValueError(
            f"expected at most {len(weighted)} layers to learn, which have weights, got {count}"
        )
    if learn in ("all", "affine"):
        return 0
    return weighted[-count] if count else len(weighted)


def layer_of(network: IntegerNetwork, index: int) -> IntegerLayer:
    """Return the layer of a node."""
    layer = network.layers[network.nodes[index].layer]
    assert isinstance(layer, IntegerLayer)
    return layer


def _parameters(layer: IntegerLayer) -> list[IntegerParameter]:
    norm = layer.norm if isinstance(layer, NormalizingLayer) else None
    found = [m for m in layer.modules() if isinstance(m, IntegerParameter)]
    constant = {id(p) for p in (norm.gamma, norm.beta) if p.fixed_value} if norm else set()
    return [p for p in found if id(p) not in constant]
