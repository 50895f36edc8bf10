"""Call the C interface of the 8-bit normalization against its judge. Runs under the sanitizers.

    python tests/native/drive_int8_norm.py LIBRARY

No torch: buffers come from malloc at their exact size, so that the address sanitizer sees a read or
a write past their end. The judge is l1bn.fixed_point, which needs NumPy only.
"""

from __future__ import annotations

import itertools
import struct
import sys
from pathlib import Path

import numpy as np
from torchless import library, load_openmp, selected

from l1bn import fixed_point as fp
from l1bn.fixed_point.norm.layer import norm_layer_backward, norm_layer_forward
from l1bn.fixed_point.scaling import rescale

SEED, STREAM = 7, 123456789
#: Rows and channels: below, at and beside the vectors' lengths; the last ones for several threads.
SIZES = [(2, 1), (3, 5), (7, 16), (9, 17), (35, 33), (13, 64), (36, 100), (900, 48), (2100, 16)]


class Kernels:
    """The entry points, with NumPy arrays in the place of pointers."""

    def __init__(self, path: str) -> None:
        self.stack = library.int8_norm(Path(path))

    def __call__(self, name: str, *fields: np.ndarray | int | None) -> int:
        """Pack numbers and the addresses of arrays, all 8 bytes wide."""
        numbers = [f.ctypes.data if isinstance(f, np.ndarray) else int(f or 0) for f in fields]
        block = b"".join(struct.pack("q" if n < 2**63 else "Q", n) for n in numbers)
        return self.stack.call(name, block)


def draw(rng, *shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def same(found, want, what):
    assert np.array_equal(found.astype(object), np.asarray(want).astype(object)), what


def drive_norm(kernels, rows, channels, threads, relu, with_residual, stochastic, rng):
    """Forward and backward of a layer; arrays are (rows, channels), the judge's are transposed."""
    shape, spec = (rows, channels, threads), fp.NormSpec(width=8)
    formats = (8, spec.mantissa_bits, 0, spec.shift_base, spec.output.fraction)
    numbers = (*formats, spec.deviation_floor(rows))
    x = np.maximum(draw(rng, rows, channels), -127)  # what rescaling can give
    g, residual = draw(rng, rows, channels), None
    if with_residual:
        residual = draw(rng, rows, channels)
    gamma, beta = draw(rng, channels), draw(rng, channels)
    y, dx, dresidual = (np.full((rows, channels), -77, np.int8) for _ in range(3))
    wide, narrow = np.empty((3, channels), np.int64), np.empty((6, channels), np.int32)
    value = x.astype(np.int32) << 3
    copied = np.full_like(x, -77)
    layer = (gamma, beta, residual, relu, y, wide, narrow)
    assert kernels("norm_forward", *shape, *numbers, value, 0, 3, copied, *layer) == 0
    same(copied, x, "what was rescaled")
    want = norm_layer_forward(
        x.T.astype(np.int64),
        gamma.astype(np.int64),
        beta.astype(np.int64),
        spec,
        None if residual is None else residual.T.astype(np.int64),
        relu,
    )
    same(y.T, want.y, f"y of {shape}")
    x_exponent = rng.integers(-12, 4, channels).astype(np.int32)
    dgamma, dbeta = np.empty(channels, np.int64), np.empty(channels, np.int64)
    tensors = (g, y if relu else None, x, wide, narrow, x_exponent)
    rounding = (stochastic, SEED, STREAM)
    results = (dx, dresidual, dgamma, dbeta)
    exponent = kernels(
        "norm_backward", *shape, *numbers, 0, *tensors, 0, -9, 8, *rounding, *results
    )
    found = norm_layer_backward(
        g.T.astype(np.int64),
        x.T.astype(np.int64),
        want,
        spec,
        -9,
        x_exponent.astype(np.int64),
        relu=relu,
        rounding="stochastic" if stochastic else "nearest",
        seed=SEED,
        stream=STREAM,
        counter=np.arange(g.size, dtype=np.uint64).reshape(g.shape).T,
    )
    assert exponent == found.exponent
    for name in ("dx", "dresidual"):
        same(locals()[name].T, getattr(found, name), f"{name} of {shape}")
    same(dgamma, found.dgamma, f"dgamma of {shape}")
    same(dbeta, found.dbeta, f"dbeta of {shape}")
    scalars = (np.ascontiguousarray(narrow[i]) for i in (2, 3, 4))
    again = np.full_like(y, -77)
    assert kernels("norm_apply", *shape, 8, x, *scalars, residual, relu, again) == 0
    same(again, y, f"the same scalars applied to {shape}")


def drive_elements(kernels, rows, channels, threads, stochastic, rng):
    """Rescaling, the largest magnitude, sums, and SGD."""
    shape, rounding = (rows, channels, threads), (stochastic, SEED, STREAM)
    how = {"rounding": "stochastic" if stochastic else "nearest", "seed": SEED, "stream": STREAM}
    value = (rng.integers(-(2**31), 2**31, (rows, channels)) >> rng.integers(0, 25)).astype("i4")
    shift = rng.integers(0, 32, channels).astype(np.int32)
    out = np.full((rows, channels), -77, np.int8)
    assert kernels("rescale", *shape, value, shift, 0, 8, *rounding, out) == 0
    same(out, rescale(value.astype(np.int64), shift[None, :], 8, **how), f"rescaled {shape}")
    eight, threshold = draw(rng, rows, channels), rng.integers(-128, 129, channels).astype("i4")
    sums = np.empty((3, channels), np.int64)
    assert kernels("norm_sides", *shape, eight, threshold, sums) == 0
    sides = fp.sides(eight.T.astype(np.int64), threshold)
    same(sums[0], sides.total, f"totals of {shape}")
    same(sums[1], sides.above, f"numbers at or above of {shape}")
    same(sums[2], sides.high, f"their sums of {shape}")
    assert kernels("peak", *shape, value) == np.abs(value.astype(np.int64)).max()
    a, b, count = draw(rng, rows * channels), draw(rng, rows * channels), rows * channels
    out = np.full(count, -77, np.int8)
    exponent = kernels("add", count, threads, a, b, -3, -7, 8, *rounding, out)
    want, want_exponent = fp.add_scaled(a, -3, b, -7, 8, **how)
    assert exponent == want_exponent
    same(out, want, f"sum of {count}")
    weight, momentum = (rng.integers(-20000, 20000, count).astype(np.int16) for _ in range(2))
    step = fp.SgdStep.quantize(0.1, 0.9, 1e-4)
    before = fp.Master(weight.astype(np.int64), -14, momentum.astype(np.int64), -18)
    for kind, dtype in enumerate((np.int8, np.int32, np.int64)):
        gradient = draw(rng, count).astype(dtype)
        mine, moving = weight.copy(), momentum.copy()
        pair = (count, threads, mine, moving, -14, -18, 16, gradient, kind, -12)
        numbers = (step.rate, step.momentum, step.decay, step.nesterov)
        exponent = kernels("sgd", *pair, *numbers, *rounding)
        after = fp.sgd_step(before, gradient.astype(np.int64), -12, step, **how)
        assert exponent == after.momentum_exponent
        same(mine, after.weight, f"weights of {count}")
        same(moving, after.momentum, f"momentum of {count}")


def main(path: str) -> None:
    load_openmp()
    kernels, count, rng = Kernels(path), 0, np.random.default_rng(0)
    flags = (False, True)
    for _ in selected(kernels.stack):
        for (rows, channels), threads in itertools.product(SIZES, (1, 3)):
            for relu, residual, stochastic in itertools.product(flags, flags, flags):
                drive_norm(kernels, rows, channels, threads, relu, residual, stochastic, rng)
                count += 1
            for stochastic in flags:
                drive_elements(kernels, rows, channels, threads, stochastic, rng)
                count += 1
    print(f"{count} passed, 0 failed ({kernels.stack.isas()})")


if __name__ == "__main__":
    main(sys.argv[1])
