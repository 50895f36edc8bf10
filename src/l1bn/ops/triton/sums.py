"""Sums over programs that share a channel: each leaves its part, and the last one adds them up."""

import triton
import triton.language as tl


@triton.jit
def add_partials(
    partials, channel, channels, SPLITS: tl.constexpr, PADDED: tl.constexpr, ACC: tl.constexpr
):
    """Sum what the programs of a channel left, always in the same order."""
    split = tl.arange(0, PADDED)
    inside = (split < SPLITS)[:, None] & (channel < channels)[None, :]
    at = partials + split[:, None] * channels + channel[None, :]
    # From the second-level cache, which all multiprocessors share.
    return tl.sum(tl.load(at, inside, 0.0, cache_modifier=".cg").to(ACC), axis=0)


@triton.jit
def is_last(done, SPLITS: tl.constexpr):
    """Whether this program is the last of its channels to get here: it then sees all they stored.

    None waits for another. Which one is the last depends on scheduling, what it adds up does not.
    """
    tl.debug_barrier()  # every thread of this program has stored its part
    return tl.atomic_add(done + tl.program_id(0), 1, sem="acq_rel") == SPLITS - 1
