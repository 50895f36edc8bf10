"""Training backward of act(norm(a) + norm(b)) in Triton.

Both branches receive the same gradient g, so β's gradients are one sum. The second branch has its
input b, the first one its input a, or y in its place: x̂ₐ = (y − norm(b) − βₐ)/γₐ wherever the
activation passes a gradient. Sums are partial, as forward's.

Equation numbers are those of reference.py. Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
"""

import triton
import triton.language as tl

from l1bn.ops.triton.backward import coefficients, constants, store_parameters
from l1bn.ops.triton.curve import from_output
from l1bn.ops.triton.pair.forward import STATISTICS
from l1bn.ops.triton.sums import add_partials, is_last
from l1bn.ops.triton.tiles import channel_index, narrow, over_channel, tile, tile_count, unpack_bits


@triton.jit
def pair_reduce_pass(
    grad, y, a, b, weight, bias, other_weight, other_bias, statistics, channel, split,
    images, channels, positions,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
):  # fmt: skip
    """Equations (5) and (6): Σg, Σg·dₐ with a or Σg·(z − norm(b) − βₐ) without, and Σg·d_b."""
    high, low, _inner, offset = constants(weight, bias, statistics, channel, channels, ACC)
    other_high, other_low, other_factor, other_offset = constants(
        other_weight, other_bias, statistics + STATISTICS * channels, channel, channels, ACC
    )
    sums = tl.zeros((HIGH, WIDE), ACC)
    products = tl.zeros((HIGH, WIDE), ACC)
    other_products = tl.zeros((HIGH, WIDE), ACC)
    for index in range(split, tile_count(images, positions, HIGH, WIDE, ROWS), SPLITS):
        offsets, mask, _, _ = tile(index, images, channels, positions, HIGH, WIDE, ROWS, INDEX)
        g = tl.load(grad + offsets, mask, 0.0).to(ACC)
        output = tl.load(y + offsets, mask, 0.0).to(ACC)
        g, value = from_output(g, output, ACTIVATION, PARAMETER)
        other = (tl.load(b + offsets, mask, 0.0).to(ACC) - other_high[None, :]) - other_low[None, :]
        if a is None:
            value -= other * other_factor[None, :] + other_offset[None, :]
            value -= offset[None, :]
        else:
            value = (tl.load(a + offsets, mask, 0.0).to(ACC) - high[None, :]) - low[None, :]
        sums += g
        # Not g·value: where y is infinite, zero times it would be no number.
        products += tl.where(g == 0, 0.0, g * value)
        other_products += tl.where(g == 0, 0.0, g * other)
    return (
        over_channel(sums, ROWS),
        over_channel(products, ROWS),
        over_channel(other_products, ROWS),
    )


@triton.jit
def signs_of(bits, bytes_at, bytes_in, HIGH: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr):
    """1 where a tile's input is at least its mean, else −1."""
    positive = unpack_bits(tl.load(bits + bytes_at, bytes_in, 0), HIGH, WIDE)
    return tl.where(positive, 1.0, -1.0).to(ACC)


@triton.jit
def pair_gradient_pass(
    grad, y, bits, other_bits, dx, other_dx, mean_g,
    through, mean_sign, factor, other_through, other_mean_sign, other_factor,
    split, images, channels, positions,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
):  # fmt: skip
    """Equation (8) of both branches, from the last tile to the first, which reduction has read."""
    total = tile_count(images, positions, HIGH, WIDE, ROWS)
    for step in range(split, total, SPLITS):
        offsets, mask, bytes_at, bytes_in = tile(
            total - 1 - step, images, channels, positions, HIGH, WIDE, ROWS, INDEX
        )
        g = tl.load(grad + offsets, mask, 0.0).to(ACC)
        output = tl.load(y + offsets, mask, 0.0).to(ACC)
        g, _z = from_output(g, output, ACTIVATION, PARAMETER)
        g -= mean_g[None, :]
        if dx is not None:
            sign = signs_of(bits, bytes_at, bytes_in, HIGH, WIDE, ACC)
            moved = (g - through[None, :] * (sign - mean_sign[None, :])) * factor[None, :]
            tl.store(dx + offsets, narrow(moved, dx), mask)
        if other_dx is not None:
            sign = signs_of(other_bits, bytes_at, bytes_in, HIGH, WIDE, ACC)
            moved = g - other_through[None, :] * (sign - other_mean_sign[None, :])
            moved *= other_factor[None, :]
            tl.store(other_dx + offsets, narrow(moved, other_dx), mask)


@triton.jit
def finish_pair(
    sums, products, other_products, grad, y, bits, other_bits, dx, other_dx,
    weight, other_weight, statistics, above, dweight, dbias, other_dweight, other_dbias,
    channel, split, images, channels, positions, count,
    EPS_ROOT: tl.constexpr, OTHER_EPS_ROOT: tl.constexpr, RECOVERED: tl.constexpr,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
):  # fmt: skip
    """Every gradient, from the sums of a channel."""
    inside = channel < channels
    others = STATISTICS * channels
    positive = tl.load(above + channel, inside, 0)
    product, mean_g, through, mean_sign, factor = coefficients(
        sums, products, positive, weight, statistics, channel, channels, count.to(ACC),
        EPS_ROOT, RECOVERED, ACC,
    )  # fmt: skip
    positive = tl.load(above + others + channel, inside, 0)
    other_product, _, other_through, other_mean_sign, other_factor = coefficients(
        sums, other_products, positive, other_weight, statistics + others, channel, channels,
        count.to(ACC), OTHER_EPS_ROOT, False, ACC,
    )  # fmt: skip
    pair_gradient_pass(
        grad, y, bits, other_bits, dx, other_dx, mean_g,
        through, mean_sign, factor, other_through, other_mean_sign, other_factor,
        split, images, channels, positions,
        SPLITS, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip
    if split == 0:
        store_parameters(dweight, dbias, product, sums, channel, channels)
        store_parameters(other_dweight, other_dbias, other_product, sums, channel, channels)


@triton.jit
def pair_reduce_kernel(
    grad, y, a, b, weight, bias, other_weight, other_bias, statistics, partials, sums_of, done,
    images, channels, positions,
    ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
    SPLITS: tl.constexpr, PADDED: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """First launch: partial sums of a channel; of the last program, the sums."""
    channel = channel_index(WIDE, ROWS)
    split = tl.program_id(1)
    sums, products, other_products = pair_reduce_pass(
        grad, y, a, b, weight, bias, other_weight, other_bias, statistics, channel, split,
        images, channels, positions, SPLITS, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip
    at = partials + split * channels + channel
    inside = channel < channels
    size = SPLITS * channels
    tl.store(at, sums, inside)
    tl.store(at + size, products, inside)
    tl.store(at + 2 * size, other_products, inside)
    if is_last(done, SPLITS):
        for row in tl.static_range(3):
            found = add_partials(partials + row * size, channel, channels, SPLITS, PADDED, ACC)
            tl.store(sums_of + row * channels + channel, found, inside)


@triton.jit
def pair_gradient_kernel(
    grad, y, bits, other_bits, dx, other_dx, weight, other_weight, statistics, above,
    sums_of, dweight, dbias, other_dweight, other_dbias,
    images, channels, positions, count,
    EPS_ROOT: tl.constexpr, OTHER_EPS_ROOT: tl.constexpr, ACTIVATION: tl.constexpr,
    PARAMETER: tl.constexpr, RECOVERED: tl.constexpr,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Second launch: every gradient."""
    channel = channel_index(WIDE, ROWS)
    inside = channel < channels
    sums = tl.load(sums_of + channel, inside, 0.0)
    products = tl.load(sums_of + channels + channel, inside, 0.0)
    other_products = tl.load(sums_of + 2 * channels + channel, inside, 0.0)
    finish_pair(
        sums, products, other_products, grad, y, bits, other_bits, dx, other_dx,
        weight, other_weight, statistics, above, dweight, dbias, other_dweight, other_dbias,
        channel, tl.program_id(1), images, channels, positions, count,
        EPS_ROOT, OTHER_EPS_ROOT, RECOVERED,
        SPLITS, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip


@triton.jit
def pair_backward_kernel(
    grad, y, a, b, bits, other_bits, dx, other_dx, weight, bias, other_weight, other_bias,
    statistics, above, dweight, dbias, other_dweight, other_dbias,
    images, channels, positions, count,
    EPS_ROOT: tl.constexpr, OTHER_EPS_ROOT: tl.constexpr, ACTIVATION: tl.constexpr,
    PARAMETER: tl.constexpr, RECOVERED: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, INDEX: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Both passes in one launch, where a program has its channels to itself."""
    channel = channel_index(WIDE, ROWS)
    sums, products, other_products = pair_reduce_pass(
        grad, y, a, b, weight, bias, other_weight, other_bias, statistics, channel, 0,
        images, channels, positions, 1, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip
    finish_pair(
        sums, products, other_products, grad, y, bits, other_bits, dx, other_dx,
        weight, other_weight, statistics, above, dweight, dbias, other_dweight, other_dbias,
        channel, 0, images, channels, positions, count, EPS_ROOT, OTHER_EPS_ROOT, RECOVERED,
        1, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip
