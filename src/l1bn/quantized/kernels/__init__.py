"""The tensor operations of integer training, one file per backend."""

from l1bn.quantized.kernels.interface import Kernels, NormState
from l1bn.quantized.kernels.selection import kernels_for

__all__ = ["Kernels", "NormState", "kernels_for"]
