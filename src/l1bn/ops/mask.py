"""A mask kept as one bit per element."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Places(NamedTuple):
    """Shape of a mask and the order of its dimensions in memory, the outermost first."""

    shape: torch.Size
    order: tuple[int, ...]


def pack(mask: Tensor) -> tuple[Tensor, Places]:
    """Return the bits of a boolean tensor, eight to a byte, and what ``unpack`` needs.

    Shape:
        - mask: ``(*)``
        - Output: ``(bytes)``
    """
    strides = mask.stride()
    order = tuple(sorted(range(mask.dim()), key=lambda d: -strides[d]))
    flat = mask.permute(order).reshape(-1)
    places = Places(mask.shape, order)
    if flat.is_cpu:
        return torch.from_numpy(np.packbits(flat.numpy(), bitorder="little")), places
    whole = torch.nn.functional.pad(flat.to(torch.uint8), (0, -flat.numel() % 8)).view(-1, 8)
    return (whole << _shifts(whole)).sum(1, dtype=torch.uint8), places


def unpack(bits: Tensor, places: Places) -> Tensor:
    """Undo ``pack``, strides included where the mask was dense."""
    shape = [places.shape[d] for d in places.order]
    if bits.is_cpu:
        flat = torch.from_numpy(
            np.unpackbits(bits.numpy(), count=places.shape.numel(), bitorder="little").view(
                np.bool_
            )
        )
    else:
        flat = ((bits.unsqueeze(1) >> _shifts(bits)) & 1).bool().view(-1)[: places.shape.numel()]
    back = sorted(range(len(shape)), key=lambda d: places.order[d])
    return flat.view(shape).permute(back)


def _shifts(v: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=v.device)
