"""The integer convolution and its gradients against autograd, which is exact here in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from l1bn.fixed_point import conv2d, conv2d_input_gradient, conv2d_weight_gradient
from l1bn.fixed_point.geometry import Geometry


def check(n, c, k, size, kernel, stride, padding, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (n, c, *size))
    weight = rng.integers(-128, 128, (k, c, *kernel))
    x64, w64 = (torch.from_numpy(a).double().requires_grad_() for a in (x, weight))
    y64 = F.conv2d(x64, w64, stride=stride, padding=padding)
    error = rng.integers(-128, 128, tuple(y64.shape))
    y64.backward(torch.from_numpy(error).double())
    np.testing.assert_array_equal(conv2d(x, weight, stride, padding), y64.detach())
    dx = conv2d_input_gradient(error, weight, size, stride, padding)
    np.testing.assert_array_equal(dx, x64.grad)
    dw = conv2d_weight_gradient(x, error, kernel, stride, padding)
    np.testing.assert_array_equal(dw, w64.grad)


@settings(max_examples=60, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    extra=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_equals_autograd(channels, kernel, extra, stride, padding, seed):
    size = (kernel[0] + extra[0], kernel[1] + extra[1])
    check(*channels, size, kernel, stride, padding, seed)


@settings(max_examples=80, deadline=None)
@given(
    groups=st.integers(1, 4),
    widths=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    seed=st.integers(0, 99),
)
def test_any_geometry_equals_autograd(groups, widths, kernel, stride, dilation, padding, seed):
    rng = np.random.default_rng(seed)
    geometry = Geometry.of(stride, padding, dilation, groups)
    size = geometry.span(kernel)[0] + 2, geometry.span(kernel)[1] + 1
    x = rng.integers(-128, 128, (2, groups * widths[0], *size))
    weight = rng.integers(-128, 128, (groups * widths[1], widths[0], *kernel))
    x64, w64 = (torch.from_numpy(a).double().requires_grad_() for a in (x, weight))
    top, bottom, left, right = padding
    padded = F.pad(x64, (left, right, top, bottom))
    y64 = F.conv2d(padded, w64, stride=stride, dilation=dilation, groups=groups)
    assert geometry.output(size, kernel) == tuple(y64.shape[2:])
    error = rng.integers(-128, 128, tuple(y64.shape))
    y64.backward(torch.from_numpy(error).double())
    np.testing.assert_array_equal(conv2d(x, weight, *geometry), y64.detach())
    options = geometry._asdict()
    dx = conv2d_input_gradient(error, weight, size, **options)
    np.testing.assert_array_equal(dx, x64.grad)
    dw = conv2d_weight_gradient(x, error, kernel, **options)
    np.testing.assert_array_equal(dw, w64.grad)


def test_layers_of_a_network():
    check(2, 16, 32, (8, 8), (3, 3), 2, 1, 0)
    check(2, 16, 32, (8, 8), (1, 1), 2, 0, 0)  # a projection shortcut
    check(4, 64, 10, (1, 1), (1, 1), 1, 0, 0)  # a linear layer


@pytest.mark.parametrize("low", [-128, 127])
def test_extremes_do_not_wrap(low):
    x = np.full((1, 512, 3, 3), low, dtype=np.int8)
    weight = np.full((2, 512, 3, 3), -128, dtype=np.int8)
    assert (conv2d(x, weight) == -128 * low * 512 * 9).all()
