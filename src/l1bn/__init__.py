"""L1-norm batch normalization for PyTorch, integer training and hardware.

The library's own names::

    L1BatchNorm1d/2d/3d, L1BatchNormAct2d    drop-in layers
    l1_batch_norm                            the function behind them

Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
"""

from l1bn import nn
from l1bn.functional import l1_batch_norm
from l1bn.nn import L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d, L1BatchNormAct2d, L1SyncBatchNorm

__version__ = "0.1.0"

__all__ = [
    "L1BatchNorm1d",
    "L1BatchNorm2d",
    "L1BatchNorm3d",
    "L1BatchNormAct2d",
    "L1SyncBatchNorm",
    "__version__",
    "l1_batch_norm",
    "nn",
]
