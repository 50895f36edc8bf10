"""Call the C interface of the 8-bit convolutions with NumPy only. Runs under the sanitizers.

    python tests/native/drive_int8_conv.py LIBRARY

No torch: buffers come from malloc at their exact size, so that the address sanitizer sees a read or
a write past their end. An OpenMP runtime is loaded first, as torch would have.
"""

from __future__ import annotations

import itertools
import struct
import sys
from pathlib import Path

import numpy as np
from torchless import library, load_openmp, selected

# images, height, width, channels, outputs, kernel height, kernel width, stride, padding. The first
# ones are large enough for several threads.
SIZES = [
    (9, 14, 14, 3, 16, 3, 3, 1, 1),
    (9, 8, 8, 17, 34, 3, 3, 1, 1),
    (9, 19, 15, 16, 66, 3, 1, 2, 1),
    (40, 16, 16, 16, 32, 1, 1, 2, 0),
    (520, 1, 1, 64, 34, 1, 1, 1, 0),
    (1, 2, 1100, 16, 33, 3, 3, 1, 1),
    (1, 50, 60, 24, 15, 3, 3, 1, 1),
    (33, 1, 1, 20, 10, 1, 1, 1, 0),
    (2, 6, 5, 5, 48, 1, 1, 1, 0),
    (1, 15, 13, 4, 7, 5, 5, 2, 2),
    (2, 5, 5, 2, 3, 3, 2, 4, 0),
    (1, 3, 3, 1, 1, 1, 1, 1, 2),
    (2, 4, 4, 3, 2, 1, 1, 5, 3),
    (0, 4, 4, 3, 2, 3, 3, 1, 1),
    (0, 1, 1, 3, 2, 1, 1, 1, 0),
    (1030, 1, 1, 20, 30, 1, 1, 1, 0),
]


# The same with strides down and across, padding above, below, left and right, dilation down and
# across, and groups.
GENERAL = [
    (9, 20, 17, 37, 37, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 37),
    (3, 11, 9, 33, 33, 3, 2, 2, 1, 0, 1, 0, 2, 2, 1, 33),
    (9, 14, 14, 12, 20, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4),
    (2, 9, 8, 15, 21, 3, 2, 2, 2, 1, 0, 0, 1, 1, 1, 3),
    (5, 6, 6, 24, 36, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 6),
    (9, 49, 10, 1, 64, 10, 4, 2, 2, 4, 5, 1, 1, 1, 1, 1),
    (4, 16, 17, 17, 40, 2, 3, 3, 2, 3, 2, 1, 0, 2, 3, 1),
    (0, 4, 4, 4, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4),
]


def general(count, high, wide, channels, outputs, kernel_high, kernel_wide, stride, padding):
    sizes = count, high, wide, channels, outputs, kernel_high, kernel_wide
    return (*sizes, stride, stride, *[padding] * 4, 1, 1, 1)


def judge(x, w, e, sizes):
    """The three results in int64, tap by tap and group by group."""
    down, across, top, bottom, left, right, down_by, across_by, groups = sizes[7:]
    x, w, e = (v.astype(np.int64) for v in (x, w, e))
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    y, dpadded, dw = np.zeros(e.shape, np.int64), np.zeros_like(padded), np.zeros_like(w)
    high, wide = e.shape[1:3]
    channels, outputs = x.shape[3] // groups, e.shape[3] // groups
    for i, j, g in np.ndindex(*w.shape[1:3], groups):
        rows = slice(i * down_by, i * down_by + down * (high - 1) + 1, down)
        cols = slice(j * across_by, j * across_by + across * (wide - 1) + 1, across)
        ins = slice(g * channels, (g + 1) * channels)
        outs = slice(g * outputs, (g + 1) * outputs)
        met = padded[:, rows, cols, ins]
        y[..., outs] += met @ w[outs, i, j].T
        dpadded[:, rows, cols, ins] += e[..., outs] @ w[outs, i, j]
        dw[outs, i, j] = np.einsum("nhwk,nhwc->kc", e[..., outs], met)
    inner = slice(top, top + x.shape[1]), slice(left, left + x.shape[2])
    return y, dpadded[:, inner[0], inner[1]], dw


def drive(stack, sizes, threads, with_peak, rng):
    count, high, wide, channels, outputs, kernel_high, kernel_wide = sizes[:7]
    down, across, top, bottom, left, right, down_by, across_by, groups = sizes[7:]
    out_high = (high + top + bottom - (kernel_high - 1) * down_by - 1) // down + 1
    out_wide = (wide + left + right - (kernel_wide - 1) * across_by - 1) // across + 1

    def draw(*shape):
        return rng.integers(-128, 128, shape).astype(np.int8)

    x = draw(count, high, wide, channels)
    w = draw(outputs, kernel_high, kernel_wide, channels // groups)
    e = draw(count, out_high, out_wide, outputs)
    y, dx, dw = (np.full(v.shape, -77, np.int32) for v in (e, x, w))
    y_peak, dx_peak = np.empty(outputs, np.int32), np.empty(channels, np.int32)

    def call(name, *tensors):
        pointers = [0 if t is None else t.ctypes.data for t in tensors]
        block = struct.pack(f"{17 + len(pointers)}q", *sizes, threads, *pointers)
        assert stack.call(name, block) == 0

    call("forward", x, w, y, y_peak if with_peak else None)
    call("input_gradient", e, w, dx, dx_peak if with_peak else None)
    call("weight_gradient", x, e, dw)
    for name, found, want in zip(
        ("y", "dx", "dw"), (y, dx, dw), judge(x, w, e, sizes), strict=True
    ):
        assert np.array_equal(found, want), f"{name} differs in {sizes}, {threads} threads"
    if with_peak:
        for found, values in ((y_peak, y), (dx_peak, dx)):
            want = np.abs(values.astype(np.int64)).max((0, 1, 2), initial=0)
            assert np.array_equal(found, want), f"peak differs in {sizes}, {threads} threads"


def main(path: str) -> None:
    load_openmp()
    stack = library.int8_conv(Path(path))
    too_large_a_kernel = struct.pack("21q", *general(1, 2, 2, 1, 1, 3, 3, 1, 0), 1, 0, 0, 0, 0)
    assert stack.functions()["forward"](too_large_a_kernel) == library.ERROR - 2
    every = [*(general(*sizes) for sizes in SIZES), *GENERAL]
    count, rng = 0, np.random.default_rng(0)
    for _ in selected(stack):
        for sizes, threads, with_peak in itertools.product(every, (1, 3), (False, True)):
            drive(stack, sizes, threads, with_peak, rng)
            count += 1
    print(f"{count} passed, 0 failed ({stack.isas()})")


if __name__ == "__main__":
    main(sys.argv[1])
