"""The way back: a float network with the weights and statistics of an integer one."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from l1bn.quantized.layers import IntegerLayer, NormLayer, ProductLayer, ProductNormLayer
from l1bn.quantized.layers.product import Product
from l1bn.quantized.network import IntegerNetwork
from l1bn.quantized.parameter import IntegerParameter


def to_float(network: IntegerNetwork, model: nn.Module) -> nn.Module:
    """Return a copy of the float model, with what the integer network has learned.

    Weights are those of the masters, which have twice the bits of what the integer network computes
    with. Running statistics are L1BN's: in evaluation the copy is near the integer network whether
    it has BatchNorm or L1BN; to train it further, convert it with ``l1bn.convert_``.

    Args:
        network: A network of ``prepare``.
        model: The float model that it was prepared from; it stays as it is.

    Raises:
        ValueError: If the model has no such layer, or one of another size.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from l1bn import quantized
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        >>> network = quantized.prepare(model)
        >>> back = quantized.to_float(network, model)
        >>> bool((back[0].weight - model[0].weight).abs().max() < 1e-4)
        True
    """
    found = copy.deepcopy(model)
    modules = dict(found.named_modules())
    for layer in network.layers:
        assert isinstance(layer, IntegerLayer)
        for name, values in _state(layer).items():
            _copy(modules, name, values)
    return found


def _state(layer: IntegerLayer) -> dict[str, Tensor]:
    """Return float parameters and buffers by their names in the float model."""
    state: dict[str, Tensor] = {}
    if isinstance(layer, (ProductLayer, ProductNormLayer)):
        state |= _product(layer.product)
    if isinstance(layer, (NormLayer, ProductNormLayer)):
        norm, name = layer.norm, layer.name
        mean, variance = norm.real()
        state |= {
            f"{name}.running_mean": mean,
            f"{name}.running_var": variance,
            f"{name}.num_batches_tracked": norm.num_batches_tracked,
        }
        for key, parameter in (("weight", norm.gamma), ("bias", norm.beta)):
            if not parameter.fixed_value:
                state[f"{name}.{key}"] = parameter.real()
    return state


def _product(product: Product) -> dict[str, Tensor]:
    found: dict[str, IntegerParameter | None] = {"weight": product.weight, "bias": product.bias}
    return {f"{product.name}.{k}": p.real() for k, p in found.items() if p is not None}


def _copy(modules: dict[str, nn.Module], name: str, values: Tensor) -> None:
    owner, _, key = name.rpartition(".")
    target = getattr(modules.get(owner), key, None)
    if not isinstance(target, Tensor) or target.numel() != values.numel():
        got = "none" if not isinstance(target, Tensor) else f"shape {tuple(target.shape)}"
        raise ValueError(
            f"{name}: expected {values.numel()} numbers in the float model, got {got}; give the "
            "model that the network was prepared from"
        )
    with torch.no_grad():
        target.copy_(values.reshape(target.shape))
