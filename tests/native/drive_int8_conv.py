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


def judge(x, w, e, stride, padding):
    """The three results in int64, tap by tap."""
    x, w, e = (v.astype(np.int64) for v in (x, w, e))
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    y, dpadded, dw = np.zeros(e.shape, np.int64), np.zeros_like(padded), np.zeros_like(w)
    high, wide = e.shape[1:3]
    for i, j in np.ndindex(w.shape[1:3]):
        rows = slice(i, i + stride * (high - 1) + 1, stride)
        cols = slice(j, j + stride * (wide - 1) + 1, stride)
        met = padded[:, rows, cols]
        y += met @ w[:, i, j].T
        dpadded[:, rows, cols] += e @ w[:, i, j]
        dw[:, i, j] = np.einsum("nhwk,nhwc->kc", e, met)
    inner_rows = slice(padding, padding + x.shape[1])
    inner_cols = slice(padding, padding + x.shape[2])
    return y, dpadded[:, inner_rows, inner_cols], dw


def drive(stack, sizes, threads, with_peak, rng):
    count, high, wide, channels, outputs, kernel_high, kernel_wide, stride, padding = sizes
    out_high = (high + 2 * padding - kernel_high) // stride + 1
    out_wide = (wide + 2 * padding - kernel_wide) // stride + 1

    def draw(*shape):
        return rng.integers(-128, 128, shape).astype(np.int8)

    x = draw(count, high, wide, channels)
    w = draw(outputs, kernel_high, kernel_wide, channels)
    e = draw(count, out_high, out_wide, outputs)
    y, dx, dw = (np.full(v.shape, -77, np.int32) for v in (e, x, w))
    y_peak, dx_peak = np.empty(outputs, np.int32), np.empty(channels, np.int32)

    def call(name, *tensors):
        pointers = [0 if t is None else t.ctypes.data for t in tensors]
        block = struct.pack(f"{10 + len(pointers)}q", *sizes, threads, *pointers)
        assert stack.call(name, block) == 0

    call("forward", x, w, y, y_peak if with_peak else None)
    call("input_gradient", e, w, dx, dx_peak if with_peak else None)
    call("weight_gradient", x, e, dw)
    for name, found, want in zip(
        ("y", "dx", "dw"), (y, dx, dw), judge(x, w, e, stride, padding), strict=True
    ):
        assert np.array_equal(found, want), f"{name} differs in {sizes}, {threads} threads"
    if with_peak:
        for found, values in ((y_peak, y), (dx_peak, dx)):
            want = np.abs(values.astype(np.int64)).max((0, 1, 2), initial=0)
            assert np.array_equal(found, want), f"peak differs in {sizes}, {threads} threads"


def main(path: str) -> None:
    load_openmp()
    stack = library.int8_conv(Path(path))
    too_large_a_kernel = struct.pack("14q", 1, 2, 2, 1, 1, 3, 3, 1, 0, 1, 0, 0, 0, 0)
    assert stack.functions()["forward"](too_large_a_kernel) == library.ERROR - 2
    count, rng = 0, np.random.default_rng(0)
    for _ in selected(stack):
        for sizes, threads, with_peak in itertools.product(SIZES, (1, 3), (False, True)):
            drive(stack, sizes, threads, with_peak, rng)
            count += 1
    print(f"{count} passed, 0 failed ({stack.isas()})")


if __name__ == "__main__":
    main(sys.argv[1])
