"""The squared error against its judge and against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from l1bn import fixed_point as fp
from l1bn import quantized
from l1bn.fixed_point import loss as judge


def network(backend, **options):
    return quantized.prepare(nn.Linear(4, 4), quantized.Config(**options), backend=backend)


def pair(exponent, target_exponent, bits=20):
    generator = torch.Generator().manual_seed(0)
    high = 1 << bits
    output = torch.randint(-high, high, (6, 10), dtype=torch.int32, generator=generator)
    target = torch.randint(-127, 128, (6, 10), dtype=torch.int8, generator=generator)
    return quantized.QTensor(output, exponent), quantized.QTensor(target, target_exponent)


@pytest.mark.parametrize("exponents", [(-20, -5), (-3, -9), (0, -40), (-60, 2)])
def test_it_equals_the_judge(backend, exponents):
    output, target = pair(*exponents)
    net = network(backend, seed=5)
    loss = quantized.squared_error(net, output, target)
    arrays = (output.values.numpy(), output.exponent, target.values.numpy(), target.exponent)
    wide, exponent = judge.squared_error(*arrays)
    shift = fp.peak_shift(np.abs(wide).max())
    noise = net.clock.noise(0, 0)
    want = fp.rescale(wide, shift, rounding="stochastic", seed=noise.seed, stream=noise.stream)
    np.testing.assert_array_equal(loss.error.values.numpy(), want)
    assert loss.error.exponent == exponent + shift


@pytest.mark.parametrize("exponents", [(-20, -5), (-18, -7), (-12, 2)])
def test_it_is_near_float(exponents):
    output, target = pair(*exponents)
    real = output.real().double().requires_grad_()
    expected = nn.functional.mse_loss(real, target.real().double())
    expected.backward()
    loss = quantized.squared_error(network("auto", stochastic=False), output, target)
    assert loss.value == pytest.approx(float(expected.detach()), rel=1e-3)
    step = 2.0**loss.error.exponent
    assert (loss.error.real() - real.grad).abs().max() <= 0.52 * step


def test_what_does_not_match_is_refused():
    output, target = pair(-20, -5)
    with pytest.raises(ValueError, match=r"of one shape, got \(6, 10\) and \(6, 5\)"):
        quantized.squared_error(
            network("auto"), output, quantized.QTensor(target.values[:, :5], -5)
        )
    with pytest.raises(TypeError, match="expected the target as a QTensor, got Tensor"):
        quantized.squared_error(network("auto"), output, target.values)
