"""What a layer is, whatever else a class on top of it does."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from l1bn.nn import (
    L1BatchNorm1d,
    L1BatchNorm2d,
    L1BatchNorm3d,
    L1BatchNormAct2d,
    L1SyncBatchNorm,
    L1SyncBatchNormAct2d,
)

#: The layers that are known through and through; subclasses may do more.
LAYERS = (
    L1BatchNorm1d,
    L1BatchNorm2d,
    L1BatchNorm3d,
    L1SyncBatchNorm,
    L1BatchNormAct2d,
    L1SyncBatchNormAct2d,
)


def bare_type(module: nn.Module) -> type[nn.Module]:
    """Class of the module, without the one that a parametrization puts on top."""
    cls = type(module)
    return cls.__mro__[1] if parametrize.is_parametrized(module) else cls
