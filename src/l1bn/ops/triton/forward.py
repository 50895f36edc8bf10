"""Training forward in Triton: statistics in two passes, normalization in a third.

The three passes read x in turn from the first tile to the last, back, and forth again, so that each
begins with what the one before it read last and the second-level cache still holds. Sums of a pass
are partial: one per program and channel. Those of the first pass are added by every program of the
second, those of the second by its last program, always in one order: no float is added atomically,
and no result depends on scheduling.

Equation numbers are those of reference.py. Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
"""

import triton
import triton.language as tl

from l1bn.ops.triton.curve import activate
from l1bn.ops.triton.sums import add_partials, is_last
from l1bn.ops.triton.tiles import channel_index, narrow, over_channel, pack_bits, tile, tile_count

#: √(π/2)
K = tl.constexpr(1.2533141373155001)


@triton.jit
def two_sum(a, b):
    """Return a + b as a rounded sum and what rounding lost (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@triton.jit
def first_pass(
    x, channel, split, images, channels, positions,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Σ(x − x₀) of a program's tiles: near x₀, the channel's first value, sums are exact enough."""
    pivot = load_pivot(x, channel, channels, positions, ROWS, ACC)
    sums = tl.zeros((HIGH, WIDE), ACC)
    for index in range(split, tile_count(images, positions, HIGH, WIDE, ROWS), SPLITS):
        offsets, mask, _, _ = tile(index, images, channels, positions, HIGH, WIDE, ROWS, INDEX)
        values = tl.load(x + offsets, mask, 0.0).to(ACC) - pivot[None, :]
        sums += tl.where(mask, values, 0.0)
    return over_channel(sums, ROWS)


@triton.jit
def load_pivot(x, channel, channels, positions, ROWS: tl.constexpr, ACC: tl.constexpr):
    """The first value of each channel."""
    at = channel if ROWS else channel * positions
    return tl.load(x + at, channel < channels, 0.0).to(ACC)


@triton.jit
def second_pass(
    x, high, low, split, images, channels, positions,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Σ|d|, Σd and Σsign(d) around a mean in two parts; the last two correct its rounding."""
    sums = tl.zeros((HIGH, WIDE), ACC)
    drift = tl.zeros((HIGH, WIDE), ACC)
    signs = tl.zeros((HIGH, WIDE), ACC)
    total = tile_count(images, positions, HIGH, WIDE, ROWS)
    for step in range(split, total, SPLITS):
        offsets, mask, _, _ = tile(
            total - 1 - step, images, channels, positions, HIGH, WIDE, ROWS, INDEX
        )
        values = (tl.load(x + offsets, mask, 0.0).to(ACC) - high[None, :]) - low[None, :]
        values = tl.where(mask, values, 0.0)
        sums += tl.abs(values)
        drift += values
        signs += tl.where(mask, tl.where(values >= 0, 1.0, -1.0), 0.0).to(ACC)
    return over_channel(sums, ROWS), over_channel(drift, ROWS), over_channel(signs, ROWS)


@triton.jit
def correct(high, low, deviation, drift, signs, count, eps_root):
    """Equations (1) and (2): the mean in two parts, and σ."""
    error = drift / count
    spread = K * ((deviation - error * signs) / count)
    # Not a maximum: a NaN must stay one.
    scale = tl.where(spread <= eps_root, eps_root + tl.zeros_like(spread), spread)
    return high, low + error, scale


@triton.jit
def affine(weight, bias, scale, channel, channels, ACC: tl.constexpr):
    """Of equation (3), γ/σ and β."""
    factor = 1.0 / scale
    if weight is not None:
        factor = tl.load(weight + channel, channel < channels, 0.0).to(ACC) / scale
    offset = tl.zeros_like(scale)
    if bias is not None:
        offset = tl.load(bias + channel, channel < channels, 0.0).to(ACC)
    return factor, offset


@triton.jit
def third_pass(
    x, residual, y, bits, weight, bias, high, low, scale, channel, split,
    images, channels, positions,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr,
    PARAMETER: tl.constexpr,
):  # fmt: skip
    """Equations (3) and (4): write y and the sign bits; return Σb and max|residual|."""
    factor, offset = affine(weight, bias, scale, channel, channels, ACC)
    above = tl.zeros((HIGH, WIDE), tl.int32)
    top = tl.zeros((HIGH, WIDE), ACC)
    for index in range(split, tile_count(images, positions, HIGH, WIDE, ROWS), SPLITS):
        offsets, mask, bytes_at, bytes_in = tile(
            index, images, channels, positions, HIGH, WIDE, ROWS, INDEX
        )
        centred = (tl.load(x + offsets, mask, 0.0).to(ACC) - high[None, :]) - low[None, :]
        z = centred * factor[None, :] + offset[None, :]
        if residual is not None:
            added = tl.load(residual + offsets, mask, 0.0).to(ACC)
            top = tl.maximum(top, tl.abs(added))
            z += added
        tl.store(y + offsets, narrow(activate(z, ACTIVATION, PARAMETER), y), mask)
        positive = (centred >= 0) & mask
        above += positive.to(tl.int32)
        if bits is not None:
            tl.store(bits + bytes_at, pack_bits(positive, HIGH, WIDE), bytes_in)
    return over_channel(above, ROWS), tl.max(top, axis=0)


@triton.jit
def note_recovery(worst, weight, bias, scale, top, channel, channels, eps_root, TINY: tl.constexpr):
    """Raise ``worst`` to this program's largest (|β| + max|residual|)/|γ|.

    That is what x̂'s error is multiplied by where it is recovered from y. The bits of floats that
    are not negative are ordered as the floats are, so an integer maximum will do, in any order.
    """
    height = tl.zeros_like(scale)
    if bias is not None:
        height = tl.abs(tl.load(bias + channel, channel < channels, 0.0).to(scale.dtype))
    if top.shape[0] != scale.shape[0]:
        top = tl.max(top, axis=0) + tl.zeros_like(scale)
    gain = tl.zeros_like(scale) + 1.0
    if weight is not None:
        gain = tl.abs(tl.load(weight + channel, channel < channels, 1.0).to(scale.dtype))
    ratio = ((height + top + TINY) / gain).to(tl.float32)
    ratio = tl.where((scale > eps_root) & (ratio == ratio), ratio, float("inf"))
    ratio = tl.where(channel < channels, ratio, 0.0)
    tl.atomic_max(worst, tl.max(ratio, axis=0).to(tl.int32, bitcast=True))


@triton.jit
def move_running(
    running_mean, running_var, momentum_tensor, momentum_high, momentum_low, mean, scale,
    channel, channels, count, eps, ACC: tl.constexpr,
):  # fmt: skip
    """Equation (9), except where the batch's statistics or the new averages are not finite."""
    if running_mean is not None:
        one = tl.full((), 1.0, ACC)
        momentum = momentum_high * one + momentum_low * one
        if momentum_tensor is not None:
            momentum = tl.load(momentum_tensor).to(ACC)
        variance = (scale * scale - eps) * (count / (count - 1))
        variance = tl.where(variance < 0, 0.0, variance)
        finite = (tl.abs(mean) < float("inf")) & (variance < float("inf"))
        mask = (channel < channels) & finite
        old = tl.load(running_mean + channel, mask, 0.0).to(ACC)
        new_mean = narrow(old * (1 - momentum) + mean * momentum, running_mean)
        old = tl.load(running_var + channel, mask, 0.0).to(ACC)
        new_var = narrow(old * (1 - momentum) + variance * momentum, running_var)
        # As the buffers would hold them.
        mask &= tl.abs(new_mean.to(ACC)) < float("inf")
        mask &= tl.abs(new_var.to(ACC)) < float("inf")
        tl.store(running_mean + channel, new_mean, mask)
        tl.store(running_var + channel, new_var, mask)


@triton.jit
def store_statistics(statistics, high, low, scale, channel, channels):
    """Keep the rows mean (rounded), low part of the mean, and σ."""
    inside = channel < channels
    tl.store(statistics + channel, high, inside)
    tl.store(statistics + channels + channel, low, inside)
    tl.store(statistics + 2 * channels + channel, scale, inside)


@triton.jit
def sum_kernel(
    x, partials, above, done, worst, images, channels, positions,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """First launch: partial sums; ``above``, ``done`` and ``worst`` set to zero."""
    channel = channel_index(WIDE, ROWS)
    split = tl.program_id(1)
    sums = first_pass(
        x, channel, split, images, channels, positions, SPLITS, HIGH, WIDE, ROWS, INDEX, ACC
    )
    tl.store(partials + split * channels + channel, sums, channel < channels)
    if split == 0:
        tl.store(above + channel, tl.zeros_like(channel), channel < channels)
        tl.store(done + tl.program_id(0), 0)
    if worst is not None:
        tl.store(worst, 0, (split == 0) & (tl.program_id(0) == 0))


@triton.jit
def mean_of(x, sums, channel, channels, positions, count, ROWS: tl.constexpr, ACC: tl.constexpr):
    """The mean in two parts, from Σ(x − x₀)."""
    pivot = load_pivot(x, channel, channels, positions, ROWS, ACC)
    return two_sum(pivot, sums / count)


@triton.jit
def partial_deviation(
    x, partials, channel, split, images, channels, positions, count,
    SPLITS: tl.constexpr, PADDED: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The mean in two parts; a program's parts of Σ|d|, Σd and Σsign(d) are left in memory."""
    sums = add_partials(partials, channel, channels, SPLITS, PADDED, ACC)
    high, low = mean_of(x, sums, channel, channels, positions, count, ROWS, ACC)
    deviation, drift, signs = second_pass(
        x, high, low, split, images, channels, positions,
        SPLITS, HIGH, WIDE, ROWS, INDEX, ACC,
    )  # fmt: skip
    inside = channel < channels
    size = SPLITS * channels
    at = split * channels + channel
    tl.store(partials + size + at, deviation, inside)
    tl.store(partials + 2 * size + at, drift, inside)
    tl.store(partials + 3 * size + at, signs, inside)
    return high, low


@triton.jit
def finish(
    partials, statistics, high, low,
    running_mean, running_var, momentum_tensor, momentum_high, momentum_low,
    channel, channels, count,
    EPS: tl.constexpr, EPS_ROOT: tl.constexpr,
    SPLITS: tl.constexpr, PADDED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What the last program does: all statistics from every program's parts."""
    size = SPLITS * channels
    deviation = add_partials(partials + size, channel, channels, SPLITS, PADDED, ACC)
    drift = add_partials(partials + 2 * size, channel, channels, SPLITS, PADDED, ACC)
    signs = add_partials(partials + 3 * size, channel, channels, SPLITS, PADDED, ACC)
    high, low, scale = correct(high, low, deviation, drift, signs, count, EPS_ROOT)
    store_statistics(statistics, high, low, scale, channel, channels)
    move_running(
        running_mean, running_var, momentum_tensor, momentum_high, momentum_low,
        high + low, scale, channel, channels, count, EPS, ACC,
    )  # fmt: skip


@triton.jit
def deviation_kernel(
    x, partials, done, statistics,
    running_mean, running_var, momentum_tensor, momentum_high, momentum_low,
    images, channels, positions, count,
    EPS: tl.constexpr, EPS_ROOT: tl.constexpr,
    SPLITS: tl.constexpr, PADDED: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Second launch: partial Σ|d|, Σd and Σsign(d); of the last program, all statistics."""
    channel = channel_index(WIDE, ROWS)
    total = count.to(ACC)
    high, low = partial_deviation(
        x, partials, channel, tl.program_id(1), images, channels, positions, total,
        SPLITS, PADDED, HIGH, WIDE, ROWS, INDEX, ACC,
    )  # fmt: skip
    if is_last(done, SPLITS):
        finish(
            partials, statistics, high, low,
            running_mean, running_var, momentum_tensor, momentum_high, momentum_low,
            channel, channels, total, EPS, EPS_ROOT, SPLITS, PADDED, ACC,
        )  # fmt: skip


@triton.jit
def normalize_kernel(
    x, residual, y, bits, flag, weight, bias, statistics, above, worst,
    images, channels, positions,
    EPS_ROOT: tl.constexpr, TINY: tl.constexpr, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Third launch: y, sign bits and their counts."""
    channel = channel_index(WIDE, ROWS)
    split = tl.program_id(1)
    inside = channel < channels
    high = tl.load(statistics + channel, inside, 0.0)
    low = tl.load(statistics + channels + channel, inside, 0.0)
    scale = tl.load(statistics + 2 * channels + channel, inside, 1.0)
    positive, top = third_pass(
        x, residual, y, bits, weight, bias, high, low, scale, channel, split,
        images, channels, positions,
        SPLITS, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip
    # Integers: the same sum in any order.
    tl.atomic_add(above + channel, positive.to(above.dtype.element_ty), inside)
    if worst is not None:
        note_recovery(worst, weight, bias, scale, top, channel, channels, EPS_ROOT, TINY)
    if flag is not None:
        tl.store(flag, 0, (split == 0) & (tl.program_id(0) == 0))


@triton.jit
def forward_kernel(
    x, residual, y, bits, flag, weight, bias, statistics, above, worst,
    running_mean, running_var, momentum_tensor, momentum_high, momentum_low,
    images, channels, positions, count,
    EPS: tl.constexpr, EPS_ROOT: tl.constexpr, TINY: tl.constexpr, ACTIVATION: tl.constexpr,
    PARAMETER: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, INDEX: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """All three passes in one launch, where a program has its channels to itself."""
    channel = channel_index(WIDE, ROWS)
    total = count.to(ACC)
    sums = first_pass(x, channel, 0, images, channels, positions, 1, HIGH, WIDE, ROWS, INDEX, ACC)
    high, low = mean_of(x, sums, channel, channels, positions, total, ROWS, ACC)
    deviation, drift, signs = second_pass(
        x, high, low, 0, images, channels, positions, 1, HIGH, WIDE, ROWS, INDEX, ACC
    )
    high, low, scale = correct(high, low, deviation, drift, signs, total, EPS_ROOT)
    positive, top = third_pass(
        x, residual, y, bits, weight, bias, high, low, scale, channel, 0,
        images, channels, positions, 1, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip
    tl.store(above + channel, positive, channel < channels)
    if worst is not None:
        note_recovery(worst, weight, bias, scale, top, channel, channels, EPS_ROOT, TINY)
    if flag is not None:
        tl.store(flag, 0, tl.program_id(0) == 0)
    store_statistics(statistics, high, low, scale, channel, channels)
    move_running(
        running_mean, running_var, momentum_tensor, momentum_high, momentum_low,
        high + low, scale, channel, channels, total, EPS, ACC,
    )  # fmt: skip
