"""Refuses what a device cannot compute, by the name of the layer."""

from __future__ import annotations

from l1bn.fixed_point.geometry import Geometry
from l1bn.quantized.layers import IntegerLayer, NormLayer, ProductNormLayer, Window


def plain_geometry(name: str, geometry: Geometry) -> tuple[int, int]:
    """Return stride and padding, the same in both directions."""
    plain = Geometry.of(geometry.stride[0], geometry.padding[0])
    if geometry != plain:
        raise ValueError(
            f"{name}: expected a convolution of one group with one stride and one padding, and no "
            f"dilation, got {geometry}; a device has no others"
        )
    return geometry.stride[0], geometry.padding[0]


def plain_pool(name: str, window: Window) -> tuple[int, int, int]:
    """Return size, stride and padding of square windows."""
    sides = (window.kernel, window.stride, window.padding)
    if any(a != b for a, b in sides) or window.dilation != (1, 1) or window.ceil:
        raise ValueError(
            f"{name}: expected a max pooling of square windows without dilation and ceil_mode, got "
            f"{window}; a device has no others"
        )
    return window.kernel[0], window.stride[0], window.padding[0]


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
