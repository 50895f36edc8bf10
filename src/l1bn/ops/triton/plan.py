"""How a tensor is walked over: its order in memory, the tile, the programs per channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from l1bn.ops import spill

#: Elements of a tile: sixteen for each thread of eight warps, which move 16 bytes at once.
TILE = 4096
#: Values up to which one program does all passes of its channels in one launch.
SINGLE = 16384
#: Programs that a launch aims at: some eight on each multiprocessor of a large GPU.
PROGRAMS = 1056
#: Rows of a call's statistics.
STATISTICS = 4
#: Programs per channel at most.
MOST_SPLITS = 256


@dataclass(frozen=True)
class Plan:
    """Sizes of a launch.

    Attributes:
        images: N.
        channels: C.
        positions: S, values per image and channel.
        rows: whether the channels of a position are neighbours in memory.
        high: images (planes) or rows in a tile.
        wide: positions (planes) or channels in a tile.
        groups: programs side by side, each with its own channels.
        splits: programs that share a channel.
        long: whether offsets need 64 bits.
    """

    images: int
    channels: int
    positions: int
    rows: bool
    high: int
    wide: int
    groups: int
    splits: int
    long: bool

    @property
    def count(self) -> int:
        """Values per channel, M."""
        return self.images * self.positions

    @property
    def grid(self) -> tuple[int, int]:
        """Programs of a launch."""
        return self.groups, self.splits

    @property
    def programs(self) -> int:
        """How many run side by side."""
        return self.groups * self.splits

    @property
    def padded(self) -> int:
        """The next power of two of ``splits``."""
        return 1 << (self.splits - 1).bit_length()

    @property
    def bits_bytes(self) -> int:
        """Bytes of one sign bit per element, each run of neighbours padded to whole bytes."""
        return bits_bytes(self.images, self.channels, self.positions, self.rows)


def bits_bytes(images: int, channels: int, positions: int, rows: bool) -> int:
    """As ``Plan.bits_bytes``, for symbolic sizes too."""
    if rows:
        return images * positions * ((channels + 7) // 8)
    return images * channels * ((positions + 7) // 8)


def plan_of(x: Tensor) -> Plan:
    """Plan the launches for a tensor that ``in_order`` returned."""
    rows = not x.is_contiguous() or x.dim() == 2
    return _plan(x.shape[0], x.shape[1], math.prod(x.shape[2:]), rows, x.element_size())


@lru_cache(maxsize=1024)
def _plan(images: int, channels: int, positions: int, rows: bool, itemsize: int) -> Plan:
    # Where a dimension is 1 both orders are the same bytes; rows give the wider tiles.
    rows = rows or positions == 1
    across = channels if rows else positions
    wide = min(max(8, 1 << (across - 1).bit_length()), 64 if rows else 1024)
    plan = _tiled(images, channels, positions, rows, wide, itemsize)
    # Few programs leave a GPU waiting for memory; a row is read by 64 bytes at least.
    while rows and plan.splits > 1 and plan.programs < PROGRAMS // 2 and wide * itemsize > 64:
        wide //= 2
        plan = _tiled(images, channels, positions, rows, wide, itemsize)
    return plan


def _tiled(
    images: int, channels: int, positions: int, rows: bool, wide: int, itemsize: int
) -> Plan:
    """The plan for tiles of a width."""
    count = images * positions
    down = count if rows else images
    high = max(1, min(TILE // wide, 1 << (down - 1).bit_length()))
    groups = -(-channels // wide) if rows else channels
    tiles = -(-down // high) * (1 if rows else -(-positions // wide))
    splits = 1
    if count * (wide if rows else 1) > SINGLE:
        # Of the second pass each program reads the partial sums of all, of its channels: four
        # bytes times splits², which shall be half of what a pass reads at most.
        few = max(2, math.isqrt(count * itemsize // 8))
        splits = min(-(-PROGRAMS // groups), MOST_SPLITS, tiles, few)
    return Plan(
        images, channels, positions, rows,
        high=high, wide=wide, groups=groups, splits=splits,
        long=images * channels * positions >= 2**31,
    )  # fmt: skip


CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def format_of(v: Tensor) -> torch.memory_format:
    """The memory format of a dense tensor."""
    return torch.contiguous_format if v.is_contiguous() else CHANNELS_LAST[v.dim()]


def in_order(v: Tensor, like: Tensor | None = None) -> Tensor:
    """Return ``v`` dense, in the order of ``like`` or in its own where it has one.

    A tensor that lies so already is returned as it is.
    """
    if like is not None:
        return v.contiguous(memory_format=format_of(like))
    return v.contiguous(memory_format=order_of(v))


def order_of(v: Tensor) -> torch.memory_format:
    """The memory format that ``in_order`` gives ``v``; for fake tensors too."""
    last = CHANNELS_LAST.get(v.dim())
    if last is None or v.is_contiguous() or math.prod(v.shape[2:]) == 1 or not _is_last(v):
        return torch.contiguous_format
    return last


def _is_last(v: Tensor) -> bool:
    """Whether the channels are the innermost dimension."""
    return v.shape[1] > 1 and all(v.stride(1) <= v.stride(d) for d in range(v.dim()) if d != 1)


def bits_like(x: Tensor, plan: Plan, flagged: bool) -> Tensor:
    """Memory for one sign bit per element, and for a flag (``l1bn.ops.spill``)."""
    if flagged:
        return spill.marked(plan.bits_bytes + 1, x.device)
    return torch.empty(plan.bits_bytes, dtype=torch.uint8, device=x.device)
