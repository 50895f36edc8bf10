"""L1BN layers, drop-in for those of ``torch.nn``."""

from l1bn.nn.batchnorm import L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d
from l1bn.nn.batchnorm_act import L1BatchNormAct2d
from l1bn.nn.sync import L1SyncBatchNorm, L1SyncBatchNormAct2d

__all__ = [
    "L1BatchNorm1d",
    "L1BatchNorm2d",
    "L1BatchNorm3d",
    "L1BatchNormAct2d",
    "L1SyncBatchNorm",
    "L1SyncBatchNormAct2d",
]
