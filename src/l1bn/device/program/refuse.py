"""Refuses what a device cannot compute, by the name of the layer."""

from __future__ import annotations

from l1bn.quantized.layers import IntegerLayer, NormLayer, ProductNormLayer


def refuse_sharing(layers: list[IntegerLayer]) -> None:
    """A device moves a weight as soon as its gradient is known: layers that learn share none."""
    owners: dict[int, IntegerLayer] = {}
    for layer in layers:
        for module in layer.modules():
            trains = getattr(module, "trains", False)
            if trains and owners.setdefault(id(module), layer) is not layer:
                raise ValueError(
                    f"{layer.name}: expected weights of its own where they learn, got another "
                    "layer's; freeze them"
                )


def refuse_unknown(layer: IntegerLayer) -> None:
    """Refuse a frozen layer whose statistics or exponents no batch has set."""
    unknown = isinstance(layer, (NormLayer, ProductNormLayer)) and not bool(
        layer.norm.num_batches_tracked > 0
    )
    scaling = getattr(layer, "scaling", None)
    if unknown or (scaling is not None and not bool(scaling.seen)):
        raise ValueError(
            f"{layer.name}: expected a trained layer where it is frozen, got one without "
            "statistics; run the network on a few batches in training mode first"
        )
