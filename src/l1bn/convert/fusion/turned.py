"""Saying that a layer of a fused block was turned back into batch normalization."""

from __future__ import annotations

import warnings

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from l1bn.nn.batchnorm import _L1BatchNorm

#: Attribute of a fused block's class: the class that the block had before.
ORIGINAL = "_l1bn_original_class"
#: Where a fused block keeps the names of its own layers.
_WATCHED = "_l1bn_watched"


def watch(block: nn.Module) -> None:
    """Keep the names of the layers that are children of a fused block; of another one forget them.

    Args:
        block: a module with the class that it has from now on.
    """
    if not hasattr(type(block), ORIGINAL):
        block.__dict__.pop(_WATCHED, None)
        return
    block.__dict__[_WATCHED] = tuple(
        name for name, child in block._modules.items() if isinstance(child, _L1BatchNorm)
    )


def tell(block: nn.Module) -> None:
    """Warn, once, where a layer is about to train as batch normalization."""
    for name in block.__dict__.get(_WATCHED, ()):
        layer = block._modules.get(name)
        if isinstance(layer, _L1BatchNorm) or not isinstance(layer, _BatchNorm):
            continue
        if layer.training:
            block.__dict__.pop(_WATCHED)
            warnings.warn(
                f"layer {name!r} of {type(block).__name__} was L1BN when convert_ ran and is a "
                f"{type(layer).__name__} now: it trains as batch normalization. l1bn.check(model) "
                "lists such layers, l1bn.convert_(model) turns them into L1BN again",
                stacklevel=2,
            )
            return
