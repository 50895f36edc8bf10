"""Sums are exact in every shape, sizes of 1 among them, or refused before they are made."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from l1bn import fixed_point as fp
from l1bn.fixed_point.geometry import Geometry
from l1bn.quantized.kernels import kernels_for
from l1bn.quantized.kernels.matmul import int_matmul

CPU = torch.device("cpu")


def codes(shape, generator) -> torch.Tensor:
    values = torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)
    return values.contiguous(memory_format=torch.channels_last)


def cases(count: int):
    """Convolutions of which most have a size of 1 somewhere."""
    draw = random.Random(0)
    while count:
        sizes = [draw.choice([1, 1, 2, 3, 9]) for _ in range(5)]
        kernel = draw.choice([(1, 1), (3, 3), (2, 3), (3, 1), (1, 2)])
        stride, padding = draw.choice([1, 2, 3]), draw.choice([0, 1, 2])
        if all(s + 2 * padding >= k for s, k in zip(sizes[2:4], kernel, strict=True)):
            count -= 1
            yield sizes, kernel, stride, padding


@pytest.mark.parametrize("case", range(8))
def test_convolutions_with_sizes_of_one_are_exact(backend, case):
    kernels = kernels_for(CPU, backend)
    generator = torch.Generator().manual_seed(case)
    for (n, c, h, w, k), kernel, stride, padding in list(cases(8 * 60))[case::8]:
        x, weight = codes((n, c, h, w), generator), codes((k, c, *kernel), generator)
        want = fp.conv2d(x.numpy(), weight.numpy(), stride, padding)
        acc, peak = kernels.conv2d(x, weight, Geometry.of(stride, padding))
        np.testing.assert_array_equal(acc, want)
        np.testing.assert_array_equal(peak, np.abs(want).max((0, 2, 3)))
        e = codes(want.shape, generator)
        want = fp.conv2d_input_gradient(e.numpy(), weight.numpy(), (h, w), stride, padding)
        acc, peak = kernels.conv2d_input_gradient(e, weight, (h, w), Geometry.of(stride, padding))
        np.testing.assert_array_equal(acc, want)
        np.testing.assert_array_equal(peak, np.abs(want).max((0, 2, 3)))
        want = fp.conv2d_weight_gradient(x.numpy(), e.numpy(), kernel, stride, padding)
        acc = kernels.conv2d_weight_gradient(x, e, kernel, Geometry.of(stride, padding))
        np.testing.assert_array_equal(acc, want)


@pytest.mark.parametrize("strides", [((1, 1), (1, 1)), ((1, 5), (5, 1)), ((7, 1), (1, 3))])
def test_free_strides_do_not_mislead_the_product(strides):
    a = torch.arange(40, dtype=torch.int8).as_strided((4, 1), (1, strides[0][1]))
    b = torch.arange(40, dtype=torch.int8).as_strided((1, 5), (strides[1][0], 1))
    assert torch.equal(int_matmul(a, b).long(), a.long() @ b.long())
