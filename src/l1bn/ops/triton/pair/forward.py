"""Training forward of act(norm(a) + norm(b)) in Triton, in the three passes of a single norm.

The sum of both branches is made in registers and rounded once, as y: the second normalized branch
is never stored. Passes alternate in direction and in the order of the branches, so that each
begins with what the one before it read last.

Equation numbers are those of reference.py. Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
"""

import triton
import triton.language as tl

from l1bn.ops.triton.backward import constants
from l1bn.ops.triton.curve import activate
from l1bn.ops.triton.forward import (
    affine,
    correct,
    finish,
    first_pass,
    mean_of,
    move_running,
    note_recovery,
    partial_deviation,
    second_pass,
    store_statistics,
)
from l1bn.ops.triton.sums import is_last
from l1bn.ops.triton.tiles import channel_index, narrow, over_channel, pack_bits, tile, tile_count

#: Rows of one branch in the statistics, and sets of partial sums: those of the other follow.
STATISTICS = tl.constexpr(4)
PARTIALS = tl.constexpr(4)


@triton.jit
def joined_pass(
    a, b, y, bits, other_bits, high, low, factor, offset,
    other_high, other_low, other_factor, other_offset, split, images, channels, positions,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr,
    PARAMETER: tl.constexpr,
):  # fmt: skip
    """Equations (3) and (4): write y and both sign bits; return both Σb and max|norm(b)|."""
    above = tl.zeros((HIGH, WIDE), tl.int32)
    other_above = tl.zeros((HIGH, WIDE), tl.int32)
    top = tl.zeros((HIGH, WIDE), ACC)
    for index in range(split, tile_count(images, positions, HIGH, WIDE, ROWS), SPLITS):
        offsets, mask, bytes_at, bytes_in = tile(
            index, images, channels, positions, HIGH, WIDE, ROWS, INDEX
        )
        centred = (tl.load(a + offsets, mask, 0.0).to(ACC) - high[None, :]) - low[None, :]
        other = (tl.load(b + offsets, mask, 0.0).to(ACC) - other_high[None, :]) - other_low[None, :]
        added = other * other_factor[None, :] + other_offset[None, :]
        top = tl.maximum(top, tl.where(mask, tl.abs(added), 0.0))
        z = centred * factor[None, :] + offset[None, :] + added
        tl.store(y + offsets, narrow(activate(z, ACTIVATION, PARAMETER), y), mask)
        positive = (centred >= 0) & mask
        other_positive = (other >= 0) & mask
        above += positive.to(tl.int32)
        other_above += other_positive.to(tl.int32)
        if bits is not None:
            tl.store(bits + bytes_at, pack_bits(positive, HIGH, WIDE), bytes_in)
            tl.store(other_bits + bytes_at, pack_bits(other_positive, HIGH, WIDE), bytes_in)
    return over_channel(above, ROWS), over_channel(other_above, ROWS), tl.max(top, axis=0)


@triton.jit
def pair_sum_kernel(
    a, b, partials, above, done, worst, images, channels, positions,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """First launch: partial sums of both; ``above``, ``done`` and ``worst`` set to zero."""
    channel = channel_index(WIDE, ROWS)
    split = tl.program_id(1)
    inside = channel < channels
    at = split * channels + channel
    sums = first_pass(
        a, channel, split, images, channels, positions, SPLITS, HIGH, WIDE, ROWS, INDEX, ACC
    )
    tl.store(partials + at, sums, inside)
    sums = first_pass(
        b, channel, split, images, channels, positions, SPLITS, HIGH, WIDE, ROWS, INDEX, ACC
    )
    tl.store(partials + PARTIALS * SPLITS * channels + at, sums, inside)
    if split == 0:
        tl.store(above + channel, tl.zeros_like(channel), inside)
        tl.store(above + STATISTICS * channels + channel, tl.zeros_like(channel), inside)
        tl.store(done + tl.program_id(0), 0)
    if worst is not None:
        tl.store(worst, 0, (split == 0) & (tl.program_id(0) == 0))


@triton.jit
def pair_deviation_kernel(
    a, b, partials, done, statistics,
    running_mean, running_var, momentum_tensor, momentum_high, momentum_low,
    other_running_mean, other_running_var, other_momentum_tensor, other_momentum_high,
    other_momentum_low,
    images, channels, positions, count,
    EPS: tl.constexpr, EPS_ROOT: tl.constexpr, OTHER_EPS: tl.constexpr,
    OTHER_EPS_ROOT: tl.constexpr,
    SPLITS: tl.constexpr, PADDED: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Second launch: partial sums around both means; of the last program, all statistics."""
    channel = channel_index(WIDE, ROWS)
    split = tl.program_id(1)
    total = count.to(ACC)
    other_partials = partials + PARTIALS * SPLITS * channels
    # The first launch has just read b.
    other_high, other_low = partial_deviation(
        b, other_partials, channel, split, images, channels, positions, total,
        SPLITS, PADDED, HIGH, WIDE, ROWS, INDEX, ACC,
    )  # fmt: skip
    high, low = partial_deviation(
        a, partials, channel, split, images, channels, positions, total,
        SPLITS, PADDED, HIGH, WIDE, ROWS, INDEX, ACC,
    )  # fmt: skip
    if is_last(done, SPLITS):
        finish(
            other_partials, statistics + STATISTICS * channels, other_high, other_low,
            other_running_mean, other_running_var, other_momentum_tensor, other_momentum_high,
            other_momentum_low, channel, channels, total, OTHER_EPS, OTHER_EPS_ROOT,
            SPLITS, PADDED, ACC,
        )  # fmt: skip
        finish(
            partials, statistics, high, low,
            running_mean, running_var, momentum_tensor, momentum_high, momentum_low,
            channel, channels, total, EPS, EPS_ROOT, SPLITS, PADDED, ACC,
        )  # fmt: skip


@triton.jit
def pair_normalize_kernel(
    a, b, y, bits, other_bits, flag, weight, bias, other_weight, other_bias, statistics, above,
    worst, images, channels, positions,
    EPS_ROOT: tl.constexpr, TINY: tl.constexpr, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Third launch: y, both sign bits and their counts."""
    channel = channel_index(WIDE, ROWS)
    split = tl.program_id(1)
    inside = channel < channels
    high, low, factor, offset = constants(weight, bias, statistics, channel, channels, ACC)
    other_high, other_low, other_factor, other_offset = constants(
        other_weight, other_bias, statistics + STATISTICS * channels, channel, channels, ACC
    )
    positive, other_positive, top = joined_pass(
        a, b, y, bits, other_bits, high, low, factor, offset,
        other_high, other_low, other_factor, other_offset, split, images, channels, positions,
        SPLITS, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip
    # Integers: the same sum in any order.
    tl.atomic_add(above + channel, positive.to(above.dtype.element_ty), inside)
    tl.atomic_add(
        above + STATISTICS * channels + channel, other_positive.to(above.dtype.element_ty), inside
    )
    if worst is not None:
        scale = tl.load(statistics + 2 * channels + channel, inside, 1.0)
        note_recovery(worst, weight, bias, scale, top, channel, channels, EPS_ROOT, TINY)
    if flag is not None:
        tl.store(flag, 0, (split == 0) & (tl.program_id(0) == 0))


@triton.jit
def measure(
    x, channel, images, channels, positions, count, EPS_ROOT: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, INDEX: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """The statistics of channels that a program has to itself."""
    sums = first_pass(x, channel, 0, images, channels, positions, 1, HIGH, WIDE, ROWS, INDEX, ACC)
    high, low = mean_of(x, sums, channel, channels, positions, count, ROWS, ACC)
    deviation, drift, signs = second_pass(
        x, high, low, 0, images, channels, positions, 1, HIGH, WIDE, ROWS, INDEX, ACC
    )
    return correct(high, low, deviation, drift, signs, count, EPS_ROOT)


@triton.jit
def pair_forward_kernel(
    a, b, y, bits, other_bits, flag, weight, bias, other_weight, other_bias, statistics, above,
    worst,
    running_mean, running_var, momentum_tensor, momentum_high, momentum_low,
    other_running_mean, other_running_var, other_momentum_tensor, other_momentum_high,
    other_momentum_low,
    images, channels, positions, count,
    EPS: tl.constexpr, EPS_ROOT: tl.constexpr, OTHER_EPS: tl.constexpr,
    OTHER_EPS_ROOT: tl.constexpr, TINY: tl.constexpr, ACTIVATION: tl.constexpr,
    PARAMETER: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, INDEX: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """All passes in one launch, where a program has its channels to itself."""
    channel = channel_index(WIDE, ROWS)
    total = count.to(ACC)
    inside = channel < channels
    other_high, other_low, other_scale = measure(
        b, channel, images, channels, positions, total, OTHER_EPS_ROOT, HIGH, WIDE, ROWS, INDEX, ACC
    )
    high, low, scale = measure(
        a, channel, images, channels, positions, total, EPS_ROOT, HIGH, WIDE, ROWS, INDEX, ACC
    )
    factor, offset = affine(weight, bias, scale, channel, channels, ACC)
    other_factor, other_offset = affine(
        other_weight, other_bias, other_scale, channel, channels, ACC
    )
    positive, other_positive, top = joined_pass(
        a, b, y, bits, other_bits, high, low, factor, offset,
        other_high, other_low, other_factor, other_offset, 0, images, channels, positions,
        1, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip
    tl.store(above + channel, positive, inside)
    tl.store(above + STATISTICS * channels + channel, other_positive, inside)
    if worst is not None:
        note_recovery(worst, weight, bias, scale, top, channel, channels, EPS_ROOT, TINY)
    if flag is not None:
        tl.store(flag, 0, tl.program_id(0) == 0)
    store_statistics(statistics, high, low, scale, channel, channels)
    store_statistics(
        statistics + STATISTICS * channels, other_high, other_low, other_scale, channel, channels
    )
    move_running(
        running_mean, running_var, momentum_tensor, momentum_high, momentum_low,
        high + low, scale, channel, channels, total, EPS, ACC,
    )  # fmt: skip
    move_running(
        other_running_mean, other_running_var, other_momentum_tensor, other_momentum_high,
        other_momentum_low, other_high + other_low, other_scale, channel, channels, total,
        OTHER_EPS, ACC,
    )  # fmt: skip
