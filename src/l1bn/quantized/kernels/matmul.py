"""Products of int8 matrices with int32 sums."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_GRANULE = 8
_ROWS = 32


def int_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b`` with exact int32 sums.

    Shape:
        - a: ``(M, K)``, int8
        - b: ``(K, N)``, int8
        - Output: ``(M, N)``, int32
    """
    if a.device.type != "cuda":
        return torch._int_mm(_canonical(a), _canonical(b))
    rows, columns = a.shape[0], b.shape[1]
    a = F.pad(a, (0, -a.shape[1] % _GRANULE, 0, max(_ROWS - rows, -rows % _GRANULE)))
    b = F.pad(b, (0, -columns % _GRANULE, 0, -b.shape[0] % _GRANULE))
    return torch._int_mm(a, b)[:rows, :columns]


def _canonical(a: Tensor) -> Tensor:
    """Return a matrix row by row, with the strides that this order has.

    A size of 1 leaves its stride free, so that ``contiguous`` keeps whatever a view left there;
    ``torch._int_mm`` takes it for a leading dimension and reads other elements, without a word.
    """
    return a.contiguous().view(-1).view(a.shape)
