"""Convolutions of any geometry: the kernels, plain PyTorch and the judge agree on every integer."""

from __future__ import annotations

from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l1bn import fixed_point as fp
from l1bn.fixed_point.geometry import Geometry
from l1bn.ops.int8 import conv as int8_conv
from l1bn.quantized.kernels.eager import EagerKernels
from l1bn.quantized.kernels.native import NativeKernels

MISSING = int8_conv.available()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

ISAS = list(int8_conv.isas()) if MISSING is None else []


def draw(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)


def judged(x, w, e, geometry):
    arrays = [t.numpy().astype(np.int64) for t in (x, w, e)]
    options = geometry._asdict()
    return (
        fp.conv2d(arrays[0], arrays[1], *geometry),
        fp.conv2d_input_gradient(arrays[2], arrays[1], tuple(x.shape[2:]), **options),
        fp.conv2d_weight_gradient(arrays[0], arrays[2], tuple(w.shape[2:]), **options),
    )


def computed(kernels, x, w, e, geometry):
    y, y_peak = kernels.conv2d(x, w, geometry)
    dx, dx_peak = kernels.conv2d_input_gradient(e, w, tuple(x.shape[2:]), geometry)
    dw = kernels.conv2d_weight_gradient(x, e, tuple(w.shape[2:]), geometry)
    for values, peak in ((y, y_peak), (dx, dx_peak)):
        assert torch.equal(values.abs().amax((0, 2, 3)), peak)
    return y, dx, dw


def every_backend():
    """Plain PyTorch, and the native kernels on each instruction set."""
    yield EagerKernels()
    before = int8_conv.isa()
    try:
        for isa in ISAS:
            int8_conv.select(isa)
            yield NativeKernels()
    finally:
        int8_conv.select(before)


def check(images, widths, size, kernel, geometry, seed=0):
    channels, outputs = widths
    x = draw(seed, images, channels, *size)
    w = draw(seed + 1, outputs, channels // geometry.groups, *kernel)
    e = draw(seed + 2, images, outputs, *geometry.output(size, kernel))
    want = judged(x, w, e, geometry)
    with closing(every_backend()) as backends:
        for backend in backends:
            for found, expected in zip(computed(backend, x, w, e, geometry), want, strict=True):
                np.testing.assert_array_equal(found.numpy(), expected)


#: Images, channels and outputs, size, kernel, geometry.
CASES = {
    "depthwise": (9, (37, 37), (24, 20), (3, 3), Geometry.of(1, 1, 1, 37)),
    "depthwise, stride 2, same": (
        9,
        (64, 64),
        (24, 24),
        (3, 3),
        Geometry.of(2, (0, 1, 0, 1), 1, 64),
    ),
    "depthwise, dilated": (3, (16, 16), (9, 9), (3, 3), Geometry.of(1, 2, 2, 16)),
    "depthwise of one row": (5, (24, 24), (1, 40), (1, 5), Geometry.of(1, (0, 2), 1, 24)),
    "depthwise, twice as wide": (3, (8, 16), (7, 7), (3, 3), Geometry.of(1, 1, 1, 8)),
    "depthwise of many pixels": (1, (3, 3), (200, 150), (5, 5), Geometry.of(3, 2, 1, 3)),
    "groups": (9, (32, 64), (14, 14), (3, 3), Geometry.of(1, 1, 1, 4)),
    "odd groups": (5, (15, 21), (9, 8), (3, 2), Geometry.of(2, (1, 0, 0, 1), 1, 3)),
    "pointwise groups": (40, (24, 36), (6, 6), (1, 1), Geometry.of(1, 0, 1, 6)),
    "grouped linear": (130, (24, 36), (1, 1), (1, 1), Geometry.of(1, 0, 1, 2)),
    "groups that leave pixels out": (3, (8, 8), (7, 7), (1, 1), Geometry.of(3, 0, 1, 2)),
    "dilated": (9, (17, 40), (16, 16), (3, 3), Geometry.of(1, 2, 2)),
    "dilated with stride": (4, (8, 8), (19, 17), (3, 3), Geometry.of((2, 3), 3, (3, 2))),
    "dilation and stride alike": (4, (8, 8), (16, 17), (2, 3), Geometry.of(2, 1, 2)),
    "keywords": (9, (1, 64), (49, 10), (10, 4), Geometry.of(2, (4, 5, 1, 1))),
    "same by four": (3, (5, 9), (8, 8), (4, 4), Geometry.of(1, (1, 2, 1, 2))),
    "oblong stride": (3, (6, 5), (9, 20), (3, 5), Geometry.of((1, 4), (1, 1, 0, 3))),
    "no image": (0, (4, 4), (5, 5), (3, 3), Geometry.of(1, 1, 1, 4)),
    "padding only": (2, (3, 2), (1, 1), (1, 1), Geometry.of(3, 1)),
    "padding only, depthwise": (2, (18, 18), (1, 2), (1, 1), Geometry.of(4, 2, 1, 18)),
    "padding only on one side": (2, (3, 4), (4, 4), (3, 3), Geometry.of(1, (5, 0, 0, 6))),
}


@pytest.mark.parametrize("name", CASES)
def test_backends_equal_the_judge(name):
    images, widths, size, kernel, geometry = CASES[name]
    if images == 0:
        x = draw(0, 0, widths[0], *size)
        y, peak = NativeKernels().conv2d(x, draw(1, widths[1], 1, *kernel), geometry)
        assert y.shape == (0, widths[1], 5, 5)
        assert not peak.any()
        return
    check(images, widths, size, kernel, geometry)


@settings(max_examples=60, deadline=None)
@given(
    # Depthwise ones fill vectors of every instruction set, and leave some channels over.
    widths=st.tuples(st.integers(2, 40), st.just(1), st.just(1))
    | st.tuples(*[st.integers(1, 5)] * 3),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    extra=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    steps=st.tuples(*[st.integers(1, 4)] * 4),
    padding=st.tuples(*[st.integers(0, 5)] * 4),
    images=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_any_geometry(widths, kernel, extra, steps, padding, images, seed):
    groups, *each = widths
    geometry = Geometry.of(steps[:2], padding, steps[2:], groups)
    span = geometry.span(kernel)
    size = max(span[0] - 2, 1) + extra[0], max(span[1] - 2, 1) + extra[1]
    if min(geometry.output(size, kernel)) < 1:
        size = span[0] + extra[0], span[1] + extra[1]
    channels, outputs = (groups * w for w in each)
    check(images, (channels, outputs), size, kernel, geometry, seed)


@pytest.mark.parametrize("groups", [1, 8])
def test_threads_change_nothing(groups):
    geometry = Geometry.of(1, 1, 1, groups)
    x, w = draw(0, 16, 8, 40, 40), draw(1, 8, 8 // groups, 3, 3)
    e = draw(2, 16, 8, 40, 40)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(computed(NativeKernels(), x, w, e, geometry))
    finally:
        torch.set_num_threads(threads)
    for first, second in pairwise(found):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_groups_that_divide_nothing_are_refused():
    x, w = draw(0, 1, 6, 4, 4), draw(1, 4, 2, 3, 3)
    with pytest.raises(ValueError, match="expected groups that divide 6 channels and 4 outputs"):
        int8_conv.conv2d(x, w, groups=3)
    with pytest.raises(ValueError, match="expected stride >= 1, dilation >= 1 and padding >= 0"):
        int8_conv.conv2d(x, draw(1, 4, 6, 3, 3), dilation=0)
    with pytest.raises(ValueError, match=r"within the padded input \(4 x 4\), got 5 x 5"):
        int8_conv.conv2d(x, draw(1, 4, 6, 3, 3), dilation=2)
