"""Tiles of a tensor in memory: what every kernel of this backend walks over.

A tensor of shape (N, C, *S) lies in one of two orders. In *planes* (contiguous) the values of a
channel are N runs of S. In *rows* (channels last, and (N, C)) they are one value in each of N·S
rows. A tile is a block of ``HIGH × WIDE`` values: in planes images × positions of one channel, in
rows rows × channels. The tiles of a channel are numbered; a program takes every ``splits``-th one,
so that at any moment the programs of a channel walk close together.
"""

import os

import triton
import triton.language as tl

#: Whether kernels run in Triton's interpreter.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"))


@triton.jit
def tile_count(images, positions, HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr):
    """Tiles that cover a channel."""
    if ROWS:
        count = tl.cdiv(images * positions, HIGH)
    else:
        count = tl.cdiv(images, HIGH) * tl.cdiv(positions, WIDE)
    return count


@triton.jit
def channel_index(WIDE: tl.constexpr, ROWS: tl.constexpr):
    """Channels of this program: WIDE of them in rows, one in planes."""
    if ROWS:
        channels = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    else:
        channels = tl.program_id(0) + tl.arange(0, 1)
    return channels


@triton.jit
def tile(
    index, images, channels, positions,
    HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Offsets of a tile's elements and of its bytes of sign bits, with the masks of both.

    Returns:
        offsets and mask, HIGH × WIDE; offsets and mask of the bytes, HIGH × WIDE/8.
    """
    BYTES: tl.constexpr = WIDE // 8
    if ROWS:
        rows = index * tl.full((), HIGH, INDEX) + tl.arange(0, HIGH)
        inside = rows < images.to(INDEX) * positions
        first = tl.program_id(0) * WIDE
        across = first + tl.arange(0, WIDE)
        offsets = rows[:, None] * channels + across[None, :]
        mask = inside[:, None] & (across < channels)[None, :]
        places = first // 8 + tl.arange(0, BYTES)
        stride = tl.cdiv(channels, 8)
        bytes_at = rows[:, None] * stride + places[None, :]
        bytes_in = inside[:, None] & (places < stride)[None, :]
    else:
        across_tiles = tl.cdiv(positions, WIDE)
        image = (index // across_tiles) * HIGH + tl.arange(0, HIGH)
        first = (index % across_tiles) * WIDE
        across = first + tl.arange(0, WIDE)
        inside = image < images
        plane = image.to(INDEX) * channels + tl.program_id(0)
        offsets = plane[:, None] * positions + across[None, :]
        mask = inside[:, None] & (across < positions)[None, :]
        places = first // 8 + tl.arange(0, BYTES)
        stride = tl.cdiv(positions, 8)
        bytes_at = plane[:, None] * stride + places[None, :]
        bytes_in = inside[:, None] & (places < stride)[None, :]
    return offsets, mask, bytes_at, bytes_in


@triton.jit
def over_channel(values, ROWS: tl.constexpr):
    """Sum a tile over what belongs to one channel: a value per channel of the program."""
    HIGH: tl.constexpr = values.shape[0]
    WIDE: tl.constexpr = values.shape[1]
    if not ROWS:
        values = tl.reshape(values, (HIGH * WIDE // 8, 8, 1))
    elif HIGH >= 8:
        values = tl.reshape(values, (HIGH // 8, 8, WIDE))
    else:
        values = tl.reshape(values, (HIGH, 1, WIDE))
    # In two steps: the interpreter adds one by one, where a GPU adds in a tree.
    return tl.sum(tl.sum(values, axis=0), axis=0)


@triton.jit
def pack_bits(signs, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """Pack a tile of truth values, eight neighbours to a byte, the first one lowest."""
    weights = 1 << tl.arange(0, 8)
    eights = tl.reshape(signs.to(tl.int32), (HIGH, WIDE // 8, 8))
    return tl.sum(eights * weights[None, None, :], axis=2).to(tl.uint8)


@triton.jit
def unpack_bits(packed, HIGH: tl.constexpr, WIDE: tl.constexpr):
    """The tile of truth values that ``pack_bits`` packed."""
    eights = (packed.to(tl.int32)[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.reshape(eights, (HIGH, WIDE)) != 0


@triton.jit
def narrow(values, pointer):
    """Round to the dtype that ``pointer`` points to, to nearest even as GPUs do."""
    # The interpreter cuts off the low half of a float32 instead of rounding it.
    if INTERPRETED and pointer.dtype.element_ty == tl.bfloat16:
        bits = values.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        values = tl.where(values == values, rounded.to(tl.float32, bitcast=True), values)
    return values.to(pointer.dtype.element_ty)
