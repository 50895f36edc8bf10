"""Places buffers in one static arena: two share bytes where their lives do not overlap."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from l1bn.device.program.steps import Buffer, Op

ALIGNMENT = 8
"""Bytes to which every buffer is aligned, for 64-bit numbers."""


@dataclass(frozen=True)
class Life:
    """First and last step in which a buffer is needed, and how many images it holds."""

    first: int
    last: int
    copies: int = 1


@dataclass(frozen=True)
class Placement:
    """Where each buffer lies.

    Attributes:
        offsets: First byte of each.
        lives: Life of each.
        size: Bytes of the arena.
    """

    offsets: dict[Buffer, int]
    lives: dict[Buffer, Life]
    size: int

    def live(self, step: int) -> int:
        """Return the bytes in use during a step."""
        return sum(
            aligned(b.size * life.copies)
            for b, life in self.lives.items()
            if life.first <= step <= life.last
        )


def aligned(size: int) -> int:
    """Round a number of bytes up to the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def lives(
    ops: Sequence[Op], copies: Mapping[Buffer, int], results: Collection[Buffer] = ()
) -> dict[Buffer, Life]:
    """Return the life of each buffer that the steps touch.

    Args:
        ops: The steps, in order.
        copies: Buffers that hold several images, written image by image before the batch goes on:
            they live from the start.
        results: Buffers that are read after the last step.
    """
    found: dict[Buffer, Life] = {}
    for step, op in enumerate(ops):
        for buffer in op.buffers():
            many = copies.get(buffer, 1)
            first = found[buffer].first if buffer in found else (0 if buffer in copies else step)
            found[buffer] = Life(first, len(ops) if buffer in results else step, many)
    return found


def place(
    ops: Sequence[Op], copies: Mapping[Buffer, int], results: Collection[Buffer] = ()
) -> Placement:
    """Give every buffer the lowest place that is free while it lives, the largest first.

    Arguments are those of ``lives``.
    """
    spans = lives(ops, copies, results)
    offsets: dict[Buffer, int] = {}
    size = 0
    order = sorted(spans, key=lambda b: (-b.size * spans[b].copies, spans[b].first))
    for buffer in order:
        life = spans[buffer]
        taken = sorted(
            (offsets[other], offsets[other] + aligned(other.size * spans[other].copies))
            for other in offsets
            if spans[other].first <= life.last and life.first <= spans[other].last
        )
        at, need = 0, aligned(buffer.size * life.copies)
        for start, end in taken:
            if start - at >= need:
                break
            at = max(at, end)
        offsets[buffer] = at
        size = max(size, at + need)
    return Placement(offsets, spans, size)
