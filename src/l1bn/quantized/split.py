"""Cuts a network in two: what is computed once, and what goes on learning."""

from __future__ import annotations

from l1bn.quantized.layers import IntegerLayer
from l1bn.quantized.network import IntegerNetwork, Node


def split(network: IntegerNetwork, name: str) -> tuple[IntegerNetwork, IntegerNetwork]:
    """Return what a network does up to a layer, and what follows, on the same layers.

    The second takes the int8 output of the first: what latent replay keeps in the place of images
    (Pellegrini et al., IROS 2020, arXiv:1912.01100).

    Args:
        network: A network of ``prepare``; it shares its layers with both parts.
        name: Name of the float layer, after which it is cut.

    Raises:
        ValueError: If no layer has that name, nothing follows it, or something that follows also
            takes what was computed before.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from l1bn import quantized
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        >>> network = quantized.prepare(model).eval()
        >>> front, back = quantized.split(network, "1")
        >>> x = quantized.quantize(torch.randn(4, 8), exponent=-5)
        >>> bool((back(front(x)).values == network(x).values).all())
        True
    """
    layers = [layer for layer in network.layers if isinstance(layer, IntegerLayer)]
    places = [i for i, node in enumerate(network.nodes) if layers[node.layer].name == name]
    last = len(network.nodes) - 1
    if not places or places[-1] == last:
        names = ", ".join(dict.fromkeys(layers[n.layer].name for n in network.nodes[:-1]))
        raise ValueError(f"expected a layer before the last to cut after ({names}), got {name!r}")
    cut = places[-1]
    for node in network.nodes[cut + 1 :]:
        if any(i < cut for i in node.inputs):
            raise ValueError(
                f"{name}: expected a layer that everything goes through, got one that "
                f"{layers[node.layer].name} passes by; cut after an addition or a pooling"
            )
    front = [Node(i, node.inputs) for i, node in enumerate(network.nodes[: cut + 1])]
    back = [
        Node(i, tuple(j - cut - 1 for j in node.inputs))
        for i, node in enumerate(network.nodes[cut + 1 :])
    ]
    parts = (network.nodes[: cut + 1], front), (network.nodes[cut + 1 :], back)
    first, second = (
        IntegerNetwork([layers[n.layer] for n in old], new, network.clock) for old, new in parts
    )
    return first, second
