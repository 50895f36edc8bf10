"""How the native kernels see a tensor: dense planes, or dense rows of channels."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from l1bn.ops.cpu.memory import Ordinary, contiguous, ordinary

_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Layout(NamedTuple):
    """A dense tensor as ``(outer, channels, inner)``; ``inner`` is 1 where channels lie last."""

    outer: int
    channels: int
    inner: int


def to_layout(x: Tensor) -> tuple[Ordinary, Layout]:
    """Return ``x``, or a dense and ordinary copy of it, and its layout."""
    found = ordinary(x)
    if not found.is_contiguous():
        if _is_rows(found):
            return found, layout_of(found.shape, True)
        found = contiguous(found)
    return found, layout_of(found.shape, False)


def layout_of(shape: torch.Size, rows: bool) -> Layout:
    """Layout of a dense tensor: channels last, or in the order of its dimensions."""
    channels = shape[1]
    places = math.prod(shape[2:])
    if rows:
        return Layout(shape[0] * places, channels, 1)
    return Layout(1, 1, shape[0] * places) if channels == 1 else Layout(shape[0], channels, places)


def bits_bytes(layout: Layout) -> int:
    """Bytes of the kernels' bits, as ``l1bn_bits_bytes`` counts them; for symbolic sizes too."""
    outer, channels, inner = layout
    return 2 * outer * ((channels + 15) // 16 if inner == 1 else channels * ((inner + 15) // 16))


def has_rows(x: Tensor) -> bool:
    """Whether ``to_layout`` takes ``x`` for rows of channels, for fake tensors too."""
    return not x.is_contiguous() and _is_rows(x)


def as_layout(v: Tensor, layout: Layout, dtype: torch.dtype) -> Ordinary:
    """Return ``v`` in a layout that ``to_layout`` gave for its shape, copying where it must.

    Raises:
        ValueError: it has other elements, as a saved tensor has that came back changed.
    """
    found = ordinary(v)
    elements = found.numel()
    if found.dtype is not dtype or elements != layout.outer * layout.channels * layout.inner:
        raise ValueError(
            f"expected {layout} elements of {dtype}, got shape {tuple(v.shape)} of {v.dtype}: "
            "a hook of saved tensors has to give back what it was given"
        )
    rows = layout.inner == 1 and elements != found.shape[0] * found.shape[1]
    if not rows:
        return contiguous(found)
    return found if _is_rows(found) else _make_rows(found)


def as_vector(v: Tensor, elements: int) -> Ordinary:
    """Return a vector without gaps: a slice has some, an expanded number one address.

    Raises:
        ValueError: it has another number of elements.
    """
    found = ordinary(v)
    if found.numel() != elements:
        raise ValueError(
            f"expected {elements} elements, got shape {tuple(v.shape)}: "
            "a hook of saved tensors has to give back what it was given"
        )
    return contiguous(found)


def _is_rows(x: Tensor) -> bool:
    if x.dim() in _LAST:
        return x.is_contiguous(memory_format=_LAST[x.dim()])
    return x.movedim(1, -1).is_contiguous()


def _make_rows(x: Ordinary) -> Ordinary:
    if x.dim() in _LAST:
        return Ordinary(x.contiguous(memory_format=_LAST[x.dim()]))
    return Ordinary(x.movedim(1, -1).contiguous().movedim(-1, 1))


def sign_bits(bits: Tensor, layout: Layout, shape: torch.Size) -> Tensor:
    """Unpack the kernels' bits: True where the input was at least its channel's mean.

    Args:
        bits: bytes that a forward call wrote, see ``csrc/norm/interface.h``.
        layout: layout of that call.
        shape: shape of its input.
    """
    units = bits.contiguous().view(torch.int16)
    outer, channels, inner = layout
    if (inner == 1 and channels < 16) or 1 < inner < 16:
        flat = _unit_bits(units)[: outer * channels * inner]
        return from_dense(flat.view(outer, channels, inner), layout, shape)
    if inner == 1:
        lanes = _unit_bits(units).view(outer, -1, 16)
        columns = torch.arange(channels, device=bits.device)
        group = columns // 16
        start = (group * 16).clamp_max(channels - 16)
        dense = lanes[:, group, columns - start]
    else:
        lanes = _unit_bits(units).view(outer, channels, -1)
        columns = torch.arange(inner, device=bits.device)
        # The last unit of a plane repeats elements of the one before.
        tail = columns >= inner // 16 * 16
        dense = lanes[:, :, torch.where(tail, columns - inner % 16 + 16, columns)]
    return from_dense(dense.reshape(outer, channels, inner), layout, shape)


def spread(packed: Tensor, where: Tensor, layout: Layout) -> Tensor:
    """Put packed elements back in their places, differentiably; the other places become 0.

    Args:
        packed: elements in the order of memory.
        where: their places.
        layout: layout of the tensor that they come from.

    Shape:
        - packed: as many as ``where`` is True
        - where, Output: ``(N, C, *)``
    """
    rows = layout.inner == 1 and where.dim() > 2
    places = (where.movedim(1, -1) if rows else where).reshape(layout)
    dense = packed.new_zeros(layout).masked_scatter(places, packed)
    return from_dense(dense, layout, where.shape)


def _unit_bits(units: Tensor) -> Tensor:
    places = torch.arange(16, dtype=torch.int16, device=units.device)
    return ((units.unsqueeze(-1) >> places) & 1).bool().flatten()


def from_dense(dense: Tensor, layout: Layout, shape: torch.Size) -> Tensor:
    """Give elements in the order of memory the shape that they had."""
    if layout.inner != 1 or len(shape) == 2 or shape[1] == 1:
        return dense.reshape(shape)
    return dense.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
