"""Training backward in Triton: two sums per channel, then the input's gradient from sign bits.

x̂ appears only in dγ. It is taken from x where x was kept, and from the output where not:
x̂ = (y − residual − β)/γ wherever the activation passes a gradient. Sums are partial, as forward's.

Equation numbers are those of reference.py. Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
"""

import triton
import triton.language as tl

from l1bn.ops.triton.curve import from_output, slope
from l1bn.ops.triton.forward import K, affine
from l1bn.ops.triton.sums import add_partials, is_last
from l1bn.ops.triton.tiles import channel_index, narrow, over_channel, tile, tile_count, unpack_bits


@triton.jit
def constants(weight, bias, statistics, channel, channels, ACC: tl.constexpr):
    """What z is made of, per channel: the mean in two parts, γ/σ, and β."""
    inside = channel < channels
    high = tl.load(statistics + channel, inside, 0.0)
    low = tl.load(statistics + channels + channel, inside, 0.0)
    scale = tl.load(statistics + 2 * channels + channel, inside, 1.0)
    factor, offset = affine(weight, bias, scale, channel, channels, ACC)
    return high, low, factor, offset


@triton.jit
def element(
    grad, y, x, residual, high, low, factor, offset, offsets, mask, PRODUCT: tl.constexpr,
    ACC: tl.constexpr, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
):  # fmt: skip
    """dL/dz, and what γ's gradient multiplies it by (only with PRODUCT where x is not kept).

    That is d = x − μ where x is kept, and z − residual − β where y stands for it. Where x is kept
    and y is not, z is computed again.
    """
    g = tl.load(grad + offsets, mask, 0.0).to(ACC)
    value = g
    if x is not None:
        value = (tl.load(x + offsets, mask, 0.0).to(ACC) - high[None, :]) - low[None, :]
    if y is None:
        if ACTIVATION != 0:
            z = value * factor[None, :] + offset[None, :]
            if residual is not None:
                z += tl.load(residual + offsets, mask, 0.0).to(ACC)
            g *= slope(z, ACTIVATION, PARAMETER)
    else:
        output = tl.load(y + offsets, mask, 0.0).to(ACC)
        g, z = from_output(g, output, ACTIVATION, PARAMETER)
        if x is None:
            value = z - offset[None, :]
            if PRODUCT and residual is not None:
                value = (z - tl.load(residual + offsets, mask, 0.0).to(ACC)) - offset[None, :]
    return g, value


@triton.jit
def reduce_pass(
    grad, y, x, residual, weight, bias, statistics, channel, split, images, channels, positions,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
):  # fmt: skip
    """Equations (5) and (6): Σg, and Σg·d with x or Σg·(z − residual − β) without."""
    high, low, factor, offset = constants(weight, bias, statistics, channel, channels, ACC)
    sums = tl.zeros((HIGH, WIDE), ACC)
    products = tl.zeros((HIGH, WIDE), ACC)
    for index in range(split, tile_count(images, positions, HIGH, WIDE, ROWS), SPLITS):
        offsets, mask, _, _ = tile(index, images, channels, positions, HIGH, WIDE, ROWS, INDEX)
        g, value = element(
            grad, y, x, residual, high, low, factor, offset, offsets, mask,
            True, ACC, ACTIVATION, PARAMETER,
        )  # fmt: skip
        sums += g
        # Not g·value: where y is infinite, zero times it would be no number.
        products += tl.where(g == 0, 0.0, g * value)
    return over_channel(sums, ROWS), over_channel(products, ROWS)


@triton.jit
def gradient_pass(
    grad, y, x, residual, bits, dx, dresidual, weight, bias, statistics, dbias, through, mean_sign,
    factor, channel, split, images, channels, positions,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr,
    INDEX: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
):  # fmt: skip
    """Equation (8), from the last tile to the first: reduction has just read those."""
    high, low, inner, offset = constants(weight, bias, statistics, channel, channels, ACC)
    total = tile_count(images, positions, HIGH, WIDE, ROWS)
    for step in range(split, total, SPLITS):
        offsets, mask, bytes_at, bytes_in = tile(
            total - 1 - step, images, channels, positions, HIGH, WIDE, ROWS, INDEX
        )
        g, centred = element(
            grad, y, x, residual, high, low, inner, offset, offsets, mask,
            False, ACC, ACTIVATION, PARAMETER,
        )  # fmt: skip
        if dresidual is not None:
            tl.store(dresidual + offsets, narrow(g, dresidual), mask)
        if dx is not None:
            if x is not None:
                positive = centred >= 0
            else:
                packed = tl.load(bits + bytes_at, bytes_in, 0)
                positive = unpack_bits(packed, HIGH, WIDE)
            sign = tl.where(positive, 1.0, -1.0).to(ACC)
            moved = g - dbias[None, :] - through[None, :] * (sign - mean_sign[None, :])
            moved *= factor[None, :]
            tl.store(dx + offsets, narrow(moved, dx), mask)


@triton.jit
def coefficients(
    sums, products, positive, weight, statistics, channel, channels, count,
    EPS_ROOT: tl.constexpr, RECOVERED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """dγ, and equation (8)'s factors: dβ/M, k·dγ/M where σ is above its floor, b̄ and γ/σ."""
    inside = channel < channels
    scale = tl.load(statistics + 2 * channels + channel, inside, 1.0)
    gain = tl.zeros_like(scale) + 1.0
    if weight is not None:
        gain = tl.load(weight + channel, inside, 1.0).to(ACC)
    divisor = gain if RECOVERED else scale
    dweight = products / divisor
    if RECOVERED:
        # Unreachable while x is kept for such a channel in time; never a NaN all the same.
        dweight = tl.where(gain == 0, 0.0, dweight)
    # NaN where σ is, though the activation passed nothing on.
    dweight = tl.where(scale == scale, dweight, scale)
    live = tl.where(scale > EPS_ROOT, 1.0, 0.0).to(ACC)
    through = K * dweight / count * live
    mean_sign = (2 * positive.to(ACC) - count) / count
    return dweight, sums / count, through, mean_sign, gain / scale


@triton.jit
def store_parameters(dweight, dbias, product, sums, channel, channels):
    """Write the gradients of γ and β, where wanted."""
    inside = channel < channels
    if dweight is not None:
        tl.store(dweight + channel, narrow(product, dweight), inside)
    if dbias is not None:
        tl.store(dbias + channel, narrow(sums, dbias), inside)


@triton.jit
def reduce_kernel(
    grad, y, x, residual, weight, bias, statistics, partials, sums_of, done,
    images, channels, positions,
    ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
    SPLITS: tl.constexpr, PADDED: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """First launch: partial sums of a channel; of the last program, the sums."""
    channel = channel_index(WIDE, ROWS)
    split = tl.program_id(1)
    sums, products = reduce_pass(
        grad, y, x, residual, weight, bias, statistics, channel, split,
        images, channels, positions, SPLITS, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip
    at = split * channels + channel
    inside = channel < channels
    size = SPLITS * channels
    tl.store(partials + at, sums, inside)
    tl.store(partials + size + at, products, inside)
    if is_last(done, SPLITS):
        sums = add_partials(partials, channel, channels, SPLITS, PADDED, ACC)
        products = add_partials(partials + size, channel, channels, SPLITS, PADDED, ACC)
        tl.store(sums_of + channel, sums, inside)
        tl.store(sums_of + channels + channel, products, inside)


@triton.jit
def gradient_kernel(
    grad, y, x, residual, bits, dx, dresidual, weight, bias, statistics, above, sums_of,
    dweight, dbias,
    images, channels, positions, count,
    EPS_ROOT: tl.constexpr, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
    RECOVERED: tl.constexpr,
    SPLITS: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, INDEX: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Second launch: every gradient."""
    channel = channel_index(WIDE, ROWS)
    split = tl.program_id(1)
    inside = channel < channels
    sums = tl.load(sums_of + channel, inside, 0.0)
    products = tl.load(sums_of + channels + channel, inside, 0.0)
    positive = tl.load(above + channel, channel < channels, 0)
    product, mean_g, through, mean_sign, factor = coefficients(
        sums, products, positive, weight, statistics, channel, channels, count.to(ACC),
        EPS_ROOT, RECOVERED, ACC,
    )  # fmt: skip
    gradient_pass(
        grad, y, x, residual, bits, dx, dresidual, weight, bias, statistics, mean_g, through,
        mean_sign, factor, channel, split, images, channels, positions,
        SPLITS, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip
    if split == 0:
        store_parameters(dweight, dbias, product, sums, channel, channels)


@triton.jit
def backward_kernel(
    grad, y, x, residual, bits, dx, dresidual, weight, bias, statistics, above, dweight, dbias,
    images, channels, positions, count,
    EPS_ROOT: tl.constexpr, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
    RECOVERED: tl.constexpr,
    HIGH: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, INDEX: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Both passes in one launch, where a program has its channels to itself."""
    channel = channel_index(WIDE, ROWS)
    sums, products = reduce_pass(
        grad, y, x, residual, weight, bias, statistics, channel, 0,
        images, channels, positions, 1, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip
    positive = tl.load(above + channel, channel < channels, 0)
    product, mean_g, through, mean_sign, factor = coefficients(
        sums, products, positive, weight, statistics, channel, channels, count.to(ACC),
        EPS_ROOT, RECOVERED, ACC,
    )  # fmt: skip
    gradient_pass(
        grad, y, x, residual, bits, dx, dresidual, weight, bias, statistics, mean_g, through,
        mean_sign, factor, channel, 0, images, channels, positions,
        1, HIGH, WIDE, ROWS, INDEX, ACC, ACTIVATION, PARAMETER,
    )  # fmt: skip
    store_parameters(dweight, dbias, product, sums, channel, channels)
