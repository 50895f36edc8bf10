"""L1-norm batch normalization for PyTorch, integer training and hardware.

The library's own names, loaded on first use so that the parts without PyTorch stay light:

- layers: ``L1BatchNorm1d``, ``L1BatchNorm2d``, ``L1BatchNorm3d``, ``L1BatchNormAct2d``,
  ``L1SyncBatchNorm``, ``L1SyncBatchNormAct2d``
- the function behind them: ``l1_batch_norm``
- the memory of large results on CPUs: ``memory``
- whole models: ``convert_``, ``revert_``, ``calibrate_``, ``convert_sync_``, ``fold_``, ``check``

Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l1bn.convert import check, convert_, convert_sync_, revert_
    from l1bn.functional import l1_batch_norm
    from l1bn.nn import (
        L1BatchNorm1d,
        L1BatchNorm2d,
        L1BatchNorm3d,
        L1BatchNormAct2d,
        L1SyncBatchNorm,
        L1SyncBatchNormAct2d,
    )
    from l1bn.weights import calibrate_, fold_

__version__ = "0.1.0"

_HOME = {
    "calibrate_": "l1bn.weights",
    "check": "l1bn.convert",
    "convert_": "l1bn.convert",
    "convert_sync_": "l1bn.convert",
    "fold_": "l1bn.weights",
    "revert_": "l1bn.convert",
    "L1BatchNorm1d": "l1bn.nn",
    "L1BatchNorm2d": "l1bn.nn",
    "L1BatchNorm3d": "l1bn.nn",
    "L1BatchNormAct2d": "l1bn.nn",
    "L1SyncBatchNorm": "l1bn.nn",
    "L1SyncBatchNormAct2d": "l1bn.nn",
    "l1_batch_norm": "l1bn.functional",
}

__all__ = [
    "L1BatchNorm1d",
    "L1BatchNorm2d",
    "L1BatchNorm3d",
    "L1BatchNormAct2d",
    "L1SyncBatchNorm",
    "L1SyncBatchNormAct2d",
    "__version__",
    "calibrate_",
    "check",
    "convert_",
    "convert_sync_",
    "fold_",
    "l1_batch_norm",
    "revert_",
]


_MODULES = ("memory", "nn")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"l1bn.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'l1bn' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, *_MODULES]
