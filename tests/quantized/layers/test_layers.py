"""Each layer equals the NumPy judge: not close, equal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import l1bn
from l1bn import fixed_point as fp
from l1bn import quantized
from l1bn.fixed_point import loss as judge_loss
from l1bn.quantized.layers import (
    AddLayer,
    AveragePoolLayer,
    Clock,
    FlattenLayer,
    MaxPoolLayer,
    NormLayer,
    ProductLayer,
    ProductNormLayer,
    Window,
)
from l1bn.quantized.layers.norm import to_exponent

SPEC = fp.NormSpec(8)


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy().astype(np.int64)


def channel_first(values: np.ndarray) -> np.ndarray:
    return np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)


def like(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.moveaxis(values.reshape(shape[1], shape[0], *shape[2:]), 0, 1)


def random(shape, low=-127, exponent=-5, seed=0) -> quantized.QTensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(low, 128, shape, dtype=torch.int8, generator=generator)
    if len(shape) == 4:
        values = values.contiguous(memory_format=torch.channels_last)
    return quantized.QTensor(values, exponent)


def prepared(backend, *layers, **config) -> quantized.IntegerNetwork:
    torch.manual_seed(3)
    options = quantized.Config(seed=7, **config)
    return quantized.prepare(nn.Sequential(*layers), options, backend=backend)


def judged_norm(x, x_exponent, norm, residual, relu, g, noise):
    """Forward and backward of `norm` on judged x (N, C, H, W)."""
    gamma, beta = (array(c) for c in norm.codes(SPEC))
    added = None if residual is None else channel_first(residual)
    out = fp.norm_layer_forward(channel_first(x), gamma, beta, SPEC, added, relu)
    back = fp.norm_layer_backward(
        channel_first(g.values.numpy().astype(np.int64)),
        channel_first(x),
        out,
        SPEC,
        g.exponent,
        x_exponent,
        relu=relu,
        counter=channel_first(fp.memory_order(x.shape)),
        **noise,
    )
    return out, back


def stochastic(layer, stream) -> dict:
    noise = layer.noise(stream)
    return {"rounding": "stochastic", "seed": noise.seed, "stream": noise.stream}


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0)])
def test_convolution_norm_residual_relu(backend, relu, with_residual, kernel, stride, padding):
    conv = nn.Conv2d(5, 12, kernel, stride, padding, bias=False)
    norm = l1bn.L1BatchNormAct2d(12, apply_act=relu)
    nn.init.uniform_(norm.weight, -1, 1)
    nn.init.normal_(norm.bias)
    net = prepared(backend, nn.ReLU(), conv, norm)  # something before it, so that dx is needed
    layer = net.layers[1]
    assert isinstance(layer, ProductNormLayer)
    layer.needs_input_gradient = True
    x = random((6, 5, 8, 8))
    w = layer.weight.narrow()
    acc = fp.conv2d(array(x.values), array(w.values), stride, padding)
    residual = random(acc.shape, exponent=-4, seed=1) if with_residual else None
    y = layer(x, residual) if with_residual else layer(x)

    shift = np.array([fp.peak_shift(p) for p in np.abs(acc).max((0, 2, 3))])
    conv_out = fp.rescale(acc, shift[None, :, None, None])
    x_exponent = shift + x.exponent + w.exponent
    g = random(acc.shape, exponent=-9, seed=2)
    added = array(residual.values) if with_residual else None
    noise = stochastic(layer, 3)
    out, back = judged_norm(conv_out, x_exponent, layer.norm, added, relu, g, noise)
    assert y.exponent == -SPEC.output.fraction
    np.testing.assert_array_equal(array(y.values), like(out.y, acc.shape))

    running = fp.Running.of(out.channel.statistics)
    np.testing.assert_array_equal(array(layer.norm.running_mean), running.mean)
    np.testing.assert_array_equal(array(layer.norm.running_var), running.variance)

    errors = layer.backward(g)
    inner = like(back.dx, acc.shape)
    np.testing.assert_array_equal(array(layer.norm.gamma.gradient.values), back.dgamma)
    np.testing.assert_array_equal(array(layer.norm.beta.gradient.values), back.dbeta)
    if with_residual:
        np.testing.assert_array_equal(array(errors[1].values), like(back.dresidual, acc.shape))
        assert errors[1].exponent == g.exponent
    wide = fp.conv2d_weight_gradient(array(x.values), inner, (kernel, kernel), stride, padding)
    right = fp.peak_shift(np.abs(wide).max())
    np.testing.assert_array_equal(
        array(layer.weight.gradient.values), fp.rescale(wide, right, **stochastic(layer, 0))
    )
    assert layer.weight.gradient.exponent == x.exponent + back.exponent + right
    wide = fp.conv2d_input_gradient(inner, array(w.values), (8, 8), stride, padding)
    right = fp.peak_shift(np.abs(wide).max())
    expected = fp.rescale(wide, right, **stochastic(layer, 1))
    np.testing.assert_array_equal(array(errors[0].values), expected)
    assert errors[0].exponent == back.exponent + w.exponent + right


def test_norm_alone(backend):
    net = prepared(backend, nn.ReLU(), l1bn.L1BatchNorm2d(6))
    layer = net.layers[1]
    assert isinstance(layer, NormLayer)
    x, g = random((4, 6, 5, 5)), random((4, 6, 5, 5), exponent=-9, seed=2)
    y = layer(x)
    noise = stochastic(layer, 3)
    exponent = np.full(6, x.exponent)
    out, back = judged_norm(array(x.values), exponent, layer.norm, None, False, g, noise)
    np.testing.assert_array_equal(array(y.values), like(out.y, x.shape))
    np.testing.assert_array_equal(array(layer.backward(g)[0].values), like(back.dx, x.shape))


def test_linear_with_bias(backend):
    linear = nn.Linear(20, 7)
    layer = prepared(backend, linear).layers[0]
    assert isinstance(layer, ProductLayer)
    layer.needs_input_gradient = True
    x, e = random((9, 20)), random((9, 7), seed=1, exponent=-11)
    y = layer(x)
    w = layer.weight.narrow()
    wide = array(x.values) @ array(w.values)[:, :, 0, 0].T
    bias = array(layer.bias.weight) * 2.0 ** (layer.bias.exponent - x.exponent - w.exponent)
    np.testing.assert_array_equal(array(y.values), wide + np.floor(bias + 0.5))
    assert y.values.dtype == torch.int32
    assert y.exponent == x.exponent + w.exponent
    dx = layer.backward(e)[0]
    np.testing.assert_array_equal(array(layer.bias.gradient.values), array(e.values).sum(0))
    wide = array(e.values) @ array(w.values)[:, :, 0, 0]
    shift = fp.peak_shift(np.abs(wide).max())
    np.testing.assert_array_equal(array(dx.values), fp.rescale(wide, shift, **stochastic(layer, 1)))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_max_pooling_follows_torch(backend, kernel, stride, padding):
    clock = Clock(quantized.Config(stochastic=False), backend=backend)
    layer = MaxPoolLayer("pool", 2, clock, Window((kernel,) * 2, (stride,) * 2, (padding,) * 2))
    order = torch.randperm(4 * 3 * 8 * 8, generator=torch.Generator().manual_seed(0))
    x = ((order % 255) - 127).to(torch.int8).view(4, 3, 8, 8)
    real = x.double().requires_grad_()
    expected = nn.functional.max_pool2d(real, kernel, stride, padding)
    y = layer(quantized.QTensor(x, -4))
    np.testing.assert_array_equal(array(y.values), array(expected.detach()))
    e = random(tuple(y.shape), exponent=-9)
    expected.backward(e.values.double())
    dx = layer.backward(e)[0]
    shift = dx.exponent - e.exponent
    np.testing.assert_array_equal(array(dx.values), fp.rescale(array(real.grad), shift))
    assert shift == fp.peak_shift(np.abs(array(real.grad)).max())


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (1, 1)])
def test_global_average_pooling(backend, size):
    clock = Clock(quantized.Config(stochastic=False), backend=backend)
    layer = AveragePoolLayer("pool", 2, clock)
    x, e = random((4, 3, *size), low=0), random((4, 3, 1, 1), exponent=-9, seed=1)
    y = layer(x)
    error = (y.real() - x.real().mean((2, 3), keepdim=True)).abs().max()
    assert error <= 0.51 * 2.0**y.exponent + 2e-3 * y.real().abs().max()
    dx = layer.backward(e)[0]
    exact = e.real().expand_as(x.values) / (size[0] * size[1])
    tolerance = 0.51 * 2.0**dx.exponent + 2e-3 * exact.abs().max()
    assert (dx.real() - exact).abs().max() <= tolerance
    if size == (8, 8):  # a power of two: nothing is lost
        assert torch.equal(dx.real(), exact)


@pytest.mark.parametrize("kernel", [2, 3])
def test_average_pooling_of_windows(backend, kernel):
    clock = Clock(quantized.Config(stochastic=False), backend=backend)
    layer = AveragePoolLayer("pool", 2, clock, (kernel, kernel))
    x = random((4, 3, 8, 8), low=0)
    real = x.real().requires_grad_()
    expected = nn.functional.avg_pool2d(real, kernel)
    y = layer(x)
    assert y.shape == expected.shape == layer.check(x.shape)
    assert (y.real() - expected.detach()).abs().max() <= 0.51 * 2.0**y.exponent
    e = random(tuple(y.shape), exponent=-9, seed=1)
    expected.backward(e.real())
    dx = layer.backward(e)[0]
    assert (dx.real() - real.grad).abs().max() <= 0.51 * 2.0**dx.exponent


def test_addition_aligns_saturates_and_branches(backend):
    clock = Clock(quantized.Config(), backend=backend)
    a = quantized.QTensor(torch.tensor([[100, -100, 3]], dtype=torch.int8), -3)
    b = quantized.QTensor(torch.tensor([[100, -100, 3]], dtype=torch.int8), -4)
    layer = AddLayer("add", 2, clock, fraction=3)
    y = layer(a, b)
    assert y.exponent == -3
    assert y.values.tolist() == [[127, -127, 5]]
    assert layer.backward(a) == (a, a)
    wider = AddLayer("add", 2, clock, fraction=2)(a, b)
    assert wider.exponent == -2
    assert wider.values.tolist() == [[75, -75, 3]]  # each input to nearest, ties up


def test_flatten_keeps_the_order_of_torch(backend):
    layer = FlattenLayer("flatten", 2, Clock(quantized.Config(), backend=backend))
    x = random((2, 3, 4, 5))
    y = layer(x)
    assert torch.equal(y.values, x.values.flatten(1))
    assert torch.equal(layer.backward(y)[0].values, x.values)


@pytest.mark.parametrize("exponent", [-20, -14, -3, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(backend, exponent, smoothing):
    net = prepared(backend, nn.Linear(4, 10))
    scale = 2.0**-exponent
    real = torch.randn(32, 10, generator=torch.Generator().manual_seed(0)) * 3
    logits = quantized.QTensor((real * scale).round().int(), exponent)
    labels = torch.arange(32) % 10
    found = quantized.cross_entropy(net, logits, labels, smoothing)
    values = logits.real().double().requires_grad_()
    loss = nn.functional.cross_entropy(values, labels, label_smoothing=smoothing)
    loss.backward()
    assert (found.error.real() - values.grad).abs().max() < 2.0**found.error.exponent * 1.05
    assert found.value == pytest.approx(float(loss.detach()), rel=2e-3, abs=2e-3)

    spread = round(smoothing * (1 << 14))
    wide, at = judge_loss.softmax_error(array(logits.values), exponent, array(labels), spread)
    shift = fp.peak_shift(np.abs(wide).max())
    noise = net.clock.noise(0, 0)
    judged = fp.rescale(wide, shift, rounding="stochastic", seed=noise.seed, stream=noise.stream)
    np.testing.assert_array_equal(array(found.error.values), judged)
    assert found.error.exponent == at + shift


@pytest.mark.parametrize(("lr", "grows"), [(0.05, False), (3.0, True)])
def test_sgd_equals_the_judge(backend, lr, grows):
    net = prepared(backend, nn.Linear(20, 7))
    weight = next(net.integer_parameters())
    before = weight.exponent
    optimizer = quantized.SGD(net, lr=lr, momentum=0.9, weight_decay=1e-3)
    x, labels = random((9, 20)), torch.arange(9) % 7
    for _ in range(3):
        loss = quantized.cross_entropy(net, net(x), labels)
        net.backward(loss.error)
        expected = []
        for index, p in enumerate(net.integer_parameters()):
            step = fp.SgdStep.quantize(lr, 0.9, 1e-3 if p.decays else 0.0)
            master = fp.Master(array(p.weight), p.exponent, array(p.momentum), p.momentum_exponent)
            noise = net.clock.update_noise(index)
            judged = fp.sgd_step(
                master,
                array(p.gradient.values),
                p.gradient.exponent,
                step,
                seed=noise.seed,
                stream=noise.stream,
            )
            expected.append(fp.make_room(judged))
        optimizer.step()
        for p, judged in zip(net.integer_parameters(), expected, strict=True):
            np.testing.assert_array_equal(array(p.weight), judged.weight)
            np.testing.assert_array_equal(array(p.momentum), judged.momentum)
            assert p.momentum_exponent == judged.momentum_exponent
            assert p.exponent == int(p.exponents[0]) == judged.exponent
    assert (weight.exponent > before) == grows


@pytest.mark.parametrize("shift", [-9, -2, 0, 1, 2, 6, 7, 8, 9, 30])
def test_other_steps_are_rounded_to_nearest_and_saturated(shift):
    values = np.arange(-127, 128)
    found = to_exponent(quantized.QTensor(torch.from_numpy(values).to(torch.int8), -5), shift - 5)
    want = np.floor(values / 2.0**shift + 0.5).clip(-127, 127)
    assert found.exponent == shift - 5
    np.testing.assert_array_equal(array(found.values), want)
