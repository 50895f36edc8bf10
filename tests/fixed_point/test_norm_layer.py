"""The integer layer against the float64 formula, with the ReLU's mask taken from the integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l1bn import fixed_point as fp

K = math.sqrt(math.pi / 2)
SPEC = fp.NormSpec(width=8)
CHANNELS, COUNT = 12, 800


class Layer:
    """Random data of a layer, and its gradients."""

    def __init__(self, seed=0, residual=True, relu=True, **options):
        rng = np.random.default_rng(seed)
        shape = (CHANNELS, COUNT)
        mean, spread = rng.normal(0, 15, (CHANNELS, 1)), rng.uniform(8, 30, (CHANNELS, 1))
        self.x = SPEC.data.saturate(np.round(rng.normal(mean, spread, shape)))
        self.g = SPEC.data.saturate(np.round(rng.normal(0, 25, shape) + 0.3 * self.x))
        self.gamma = SPEC.gamma.quantize(rng.uniform(-1.8, 1.8, CHANNELS))
        self.beta = SPEC.output.quantize(rng.normal(0, 0.5, CHANNELS))
        self.residual = rng.integers(-60, 61, shape) if residual else None
        self.x_exponent, self.g_exponent = rng.integers(-7, -3, CHANNELS), -11
        self.relu, self.options = relu, options
        self.out = fp.norm_layer_forward(self.x, self.gamma, self.beta, SPEC, self.residual, relu)
        self.back = self.backward()

    def backward(self, **changes):
        arguments = {
            "g_exponent": self.g_exponent,
            "x_exponent": self.x_exponent,
            "relu": self.relu,
            **self.options,
            **changes,
        }
        return fp.norm_layer_backward(self.g, self.x, self.out, SPEC, **arguments)

    def formula(self):
        """Pre-activation y in steps, dx, dγ and dβ as real numbers."""
        scale = 2.0 ** self.x_exponent[:, None]
        d = (self.x - self.x.mean(1, keepdims=True)) * scale
        sigma = K * np.abs(d).mean(1, keepdims=True)
        x_hat, gamma = d / sigma, SPEC.gamma.real(self.gamma)[:, None]
        y = np.clip((gamma * x_hat) * 2**SPEC.output.fraction + self.beta[:, None], -128, 127)
        if self.residual is not None:
            y = np.clip(y + self.residual, -128, 127)
        g = self.g * 2.0**self.g_exponent
        if self.relu:
            g = np.where(self.out.y > 0, g, 0)
        dgamma = (g * x_hat).sum(1, keepdims=True)
        sign = np.where(d >= 0, 1.0, -1.0)
        spread = K * (sign - sign.mean(1, keepdims=True)) * dgamma / COUNT
        dx = gamma / sigma * (g - g.mean(1, keepdims=True) - spread)
        return y, dx, dgamma[:, 0], g.sum(1)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), residual=st.booleans(), relu=st.booleans())
def test_one_step_from_float64(seed, residual, relu):
    layer = Layer(seed, residual, relu)
    y, dx, dgamma, dbeta = layer.formula()
    assert np.abs(layer.out.y - (np.maximum(y, 0) if relu else y)).max() < 1
    error = layer.back.dx - dx * 2.0**-layer.back.exponent
    # Half a step of the rounding, as much where a peak is clipped, and the γ/σ of ten bits.
    assert np.abs(error).max() < 1.75
    assert error.std() < 0.345  # rounding alone has 0.289
    unit = 2.0**layer.g_exponent
    assert np.abs(layer.back.dgamma * unit - dgamma).max() <= 2e-3 * np.abs(dgamma).max()
    np.testing.assert_array_equal(layer.back.dbeta.astype(float) * unit, dbeta)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_errors_use_their_bits(bits):
    back = Layer(bits=bits).back
    high = 2 ** (bits - 1) - 1
    assert high / 2 < np.abs(back.dx).max() <= high


def test_stochastic_rounding_is_right_in_the_mean():
    layer = Layer()
    dx = layer.formula()[1] * 2.0**-layer.back.exponent
    runs = [layer.backward(rounding="stochastic", seed=1, stream=i) for i in range(40)]
    assert {r.exponent for r in runs} == {layer.back.exponent}
    errors = np.mean([r.dx for r in runs], axis=0) - dx
    # One run deviates by at most half a step, their mean by that over √40; 0.1 is for γ/σ.
    assert errors.std() < 0.5 / math.sqrt(40) + 0.1
    assert np.abs(runs[0].dx - dx).max() < 1.75


def test_residual_gets_the_masked_gradient():
    layer = Layer()
    np.testing.assert_array_equal(layer.back.dresidual, np.where(layer.out.y > 0, layer.g, 0))
    bare = Layer(relu=False)
    np.testing.assert_array_equal(bare.back.dresidual, bare.g)


def test_exponents_of_the_data_only_move_that_of_the_errors():
    layer = Layer()
    moved = layer.backward(g_exponent=layer.g_exponent + 3, x_exponent=layer.x_exponent - 2)
    np.testing.assert_array_equal(moved.dx, layer.back.dx)
    assert moved.exponent == layer.back.exponent + 5


def test_no_gradient_leaks_into_the_mean():
    layer = Layer(residual=False, relu=False)
    assert np.abs(layer.back.dx.mean(1)).max() < 0.1


def test_constant_channel_keeps_the_floor():
    layer = Layer(relu=False)
    layer.x[3] = 17
    layer.out = fp.norm_layer_forward(layer.x, layer.gamma, layer.beta, SPEC, relu=False)
    assert (layer.out.y[3] == layer.beta[3]).all()
    layer.x_exponent[3] = 5  # so that the amplified channel does not drown the others
    back = layer.backward()
    sigma = 2.0**SPEC.floor_log2 * 2.0 ** layer.x_exponent[3]
    centred = (layer.g[3] - layer.g[3].mean()) * 2.0**layer.g_exponent
    expected = SPEC.gamma.real(layer.gamma[3]) / sigma * centred
    assert np.abs(back.dx[3] - expected * 2.0**-back.exponent).max() < 1.25
    assert back.dgamma[3] == 0


def test_gradients_of_zero():
    layer = Layer()
    layer.g[:] = 0
    back = layer.backward()
    assert back.exponent == 0
    assert not back.dx.any()
    assert not back.dgamma.any()
