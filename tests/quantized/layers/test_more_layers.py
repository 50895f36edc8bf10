"""Layers beside products and norms: equal to the judge, or to torch's own where nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from l1bn import fixed_point as fp
from l1bn import quantized
from l1bn.fixed_point import activation as judge
from l1bn.fixed_point.inference import load_model
from l1bn.quantized.kernels import native
from l1bn.quantized.layers import (
    Clock,
    DropoutLayer,
    HardswishLayer,
    JoinLayer,
    MaxPoolLayer,
    OverlappingAveragePoolLayer,
    PadLayer,
    Relu6Layer,
    UpsampleLayer,
    Window,
)

CODES = torch.arange(-128, 128, dtype=torch.int8).view(1, 256, 1, 1)


def clock(backend: str, **options) -> Clock:
    return Clock(quantized.Config(**options), backend=backend)


def random(shape, exponent=-4, seed=0) -> quantized.QTensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-127, 128, shape, dtype=torch.int8, generator=generator)
    return quantized.QTensor(values.contiguous(memory_format=torch.channels_last), exponent)


def ones(y: quantized.QTensor) -> quantized.QTensor:
    return quantized.QTensor(torch.full_like(y.values, 64), -6)


@pytest.mark.parametrize("exponent", range(-9, 5))
def test_relu6_limits_at_six(backend, exponent):
    layer = Relu6Layer("act", 2, clock(backend))
    x = quantized.QTensor(CODES, exponent)
    y = layer(x)
    np.testing.assert_array_equal(y.values.numpy(), judge.relu6(CODES.numpy(), exponent))
    step = 2.0**exponent
    inside = F.relu6(x.real())
    assert (y.real() - inside).abs().max() <= max(0.5 * step, 0) * (exponent > 1)
    alive = (x.real() > 0) & (x.values.int() < judge.six(exponent))
    assert torch.equal(layer.backward(ones(y))[0].values != 0, alive)


@pytest.mark.parametrize("exponent", range(-9, 5))
def test_hardswish_is_within_half_a_step_of_torch(backend, exponent):
    layer = HardswishLayer("act", 2, clock(backend, stochastic=False))
    x = quantized.QTensor(CODES, exponent)
    real = x.real().double().requires_grad_()
    expected = F.hardswish(real)
    y = layer(x)
    assert (y.real() - expected.detach()).abs().max() <= 0.5 * 2.0**exponent
    expected.sum().backward()
    dx = layer.backward(ones(y))[0].real()
    assert (dx - real.grad).abs().max() <= 2.0**-6


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [((3, 2), (2, 1), (1, 0), (1, 1)), ((2, 2), (3, 3), (1, 1), (1, 1)), ((2, 3), 1, 0, (2, 1))],
)
def test_any_max_pooling_follows_torch(backend, kernel, stride, padding, dilation, ceil):
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    net = quantized.prepare(pool, quantized.Config(stochastic=False), backend=backend)
    layer = net.layers[0]
    assert isinstance(layer, MaxPoolLayer)
    order = torch.randperm(2 * 2 * 9 * 7, generator=torch.Generator().manual_seed(0))
    x = quantized.QTensor(((order % 255) - 127).to(torch.int8).view(2, 2, 9, 7), -4)
    real = x.values.double().requires_grad_()
    expected = pool(real)
    assert layer.check(x.shape) == expected.shape
    np.testing.assert_array_equal(layer(x).values, expected.detach())
    e = random(tuple(expected.shape), seed=1)
    expected.backward(e.values.double())
    dx = layer.backward(e)[0]
    shift = dx.exponent - e.exponent
    np.testing.assert_array_equal(dx.values, fp.rescale(real.grad.numpy().astype(int), shift))


@pytest.mark.parametrize("padding", [0, 1])
def test_overlapping_averages(backend, padding):
    layer = OverlappingAveragePoolLayer(
        "pool", 2, clock(backend), Window((3, 2), (2, 1), (padding, padding))
    )
    x = random((2, 3, 8, 7))
    real = x.real().requires_grad_()
    expected = F.avg_pool2d(real, (3, 2), (2, 1), padding)
    y = layer(x)
    assert y.shape == expected.shape == layer.check(x.shape)
    assert (y.real() - expected.detach()).abs().max() <= 0.51 * 2.0**y.exponent
    e = random(tuple(y.shape), seed=1)
    expected.backward(e.real())
    dx = layer.backward(e)[0]
    assert (dx.real() - real.grad).abs().max() <= 1.01 * 2.0**dx.exponent


def test_adaptive_averages_need_windows_of_one_size(backend, images):
    net = quantized.prepare(nn.AdaptiveAvgPool2d((2, 4)), backend=backend)
    assert net(images).shape == (16, 3, 2, 4)
    net = quantized.prepare(nn.AdaptiveAvgPool2d(3), backend=backend)
    with pytest.raises(ValueError, match=r"expected images of a multiple of \(3, 3\) pixels"):
        net(images)


def test_joined_channels_take_the_coarsest_exponent(backend):
    layer = JoinLayer("cat", 2, clock(backend))
    a, b = random((2, 3, 4, 4), -5), random((2, 2, 4, 4), -3, seed=1)
    y = layer(a, b)
    assert y.exponent == -3
    assert torch.equal(y.values[:, 3:], b.values)
    assert (y.real()[:, :3] - a.real()).abs().max() <= 0.5 * 2.0**-3
    e = random((2, 5, 4, 4), seed=2)
    da, db = layer.backward(e)
    assert torch.equal(torch.cat([da.values, db.values], 1), e.values)
    with pytest.raises(ValueError, match="cat: expected tensors that differ in their channels"):
        layer.check(a.shape, torch.Size((2, 3, 4, 5)))


def test_copied_pixels_add_their_errors(backend):
    layer = UpsampleLayer("up", 2, clock(backend, stochastic=False), (2, 3))
    x = random((2, 3, 4, 5))
    real = x.values.double().requires_grad_()
    expected = F.interpolate(real, scale_factor=(2, 3))
    y = layer(x)
    assert torch.equal(y.values.double(), expected.detach())
    e = random(tuple(y.shape), seed=1)
    expected.backward(e.values.double())
    dx = layer.backward(e)[0]
    want = fp.rescale(real.grad.numpy().astype(int), dx.exponent - e.exponent)
    np.testing.assert_array_equal(dx.values, want)


def test_borders_of_zeros_and_of_less(backend):
    layer = PadLayer("pad", 2, clock(backend), (1, -2, 0, 3))
    x = random((2, 3, 4, 5))
    y = layer(x)
    assert y.shape == layer.check(x.shape) == (2, 3, 7, 4)
    assert torch.equal(y.values, F.pad(x.values, (1, -2, 0, 3)))
    back = layer.backward(y)[0].values
    assert torch.equal(back[..., :3], x.values[..., :3])
    assert not back[..., 3:].any()


class TestDropout:
    @pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
    def test_as_many_go_as_asked_for_and_the_mean_stays(self, backend, p):
        layer = DropoutLayer("drop", 2, clock(backend), p, channels=False)
        x = quantized.QTensor(torch.full((64, 1024), 50, dtype=torch.int8), -4)
        y = layer(x)
        share = float((y.values == 0).float().mean())
        assert share == pytest.approx(p, abs=4 * (p * (1 - p) / 65536) ** 0.5)
        assert float(y.real().max()) == pytest.approx(50 / 16 / (1 - p), rel=0.01)
        back = layer.backward(ones(y))[0]
        assert torch.equal(back.values == 0, y.values == 0)
        assert float(back.real().max()) == pytest.approx(1 / (1 - p), rel=0.02)

    def test_each_step_and_pass_has_a_mask_of_its_own(self, backend):
        time = clock(backend)
        layer = DropoutLayer("drop", 2, time, 0.5, channels=False)
        x = quantized.QTensor(torch.ones(8, 64, dtype=torch.int8), 0)
        masks = []
        for _ in range(3):
            masks.append(layer(x).values != 0)
            time.passes += 1
        time.advance()
        masks.append(layer(x).values != 0)
        assert all(not torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])
        layer.eval()
        assert layer(x) is x

    def test_whole_channels(self, backend):
        layer = DropoutLayer("drop", 2, clock(backend), 0.5, channels=True)
        x = quantized.QTensor(torch.ones(16, 16, 5, 5, dtype=torch.int8), 0)
        rows = (layer(x).values != 0).flatten(2)
        assert torch.equal(rows.all(2), rows.any(2))
        assert 0.3 < float(rows.float().mean()) < 0.7

    def test_it_is_drawn_at_random_where_rounding_is_not(self, backend):
        layer = DropoutLayer("drop", 2, clock(backend, stochastic=False), 0.5, channels=False)
        x = quantized.QTensor(torch.ones(64, 64, dtype=torch.int8), 0)
        assert 0.4 < float((layer(x).values != 0).float().mean()) < 0.6


class Everything(nn.Module):
    """Each of these layers once, and a convolution twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.again = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.linear = nn.Linear(16, 8)
        self.bn3 = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu6(self.bn(self.stem(x)))
        x = F.hardswish(self.bn2(self.again(x)))
        x = self.again(x)
        x = F.dropout(F.pad(x, (0, 1, 0, 1)), 0.1, self.training)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = torch.cat([x, F.avg_pool2d(x, 3, 1, 1)], 1)
        x = F.interpolate(F.avg_pool2d(x, 3, 2, 1), scale_factor=2)
        x = F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)
        return self.head(F.relu(self.bn3(self.linear(x))))


def everything(backend: str) -> quantized.IntegerNetwork:
    torch.manual_seed(0)
    return quantized.prepare(Everything(), backend=backend)


def test_backends_agree_on_all_of_them(train_step, images, labels):
    if reason := native.unavailable():
        pytest.skip(reason)
    networks = everything("eager"), everything("cpu")
    for _ in range(4):
        losses = [train_step(net, images, labels).value for net in networks]
        assert losses[0] == losses[1]
    states = [net.state_dict() for net in networks]
    tensors = [k for k, v in states[0].items() if isinstance(v, torch.Tensor)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in tensors)


def test_an_exported_network_computes_the_same(backend, train_step, images, labels, tmp_path):
    net = everything(backend)
    for _ in range(3):
        train_step(net, images, labels)
    path = quantized.export(net, tmp_path / "model", images)
    want = net.eval()(images).values.numpy()
    np.testing.assert_array_equal(load_model(path).run(images.values.numpy()), want)


def test_they_learn(backend, train_step, images, labels):
    net = everything(backend)
    losses = [train_step(net, images, labels, lr=0.05).value for _ in range(60)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


class Twice(nn.Module):
    def __init__(self, shared: bool):
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.b = self.a if shared else nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm2 = self.norm if shared else nn.BatchNorm2d(3)
        self.head = nn.Linear(192, 4)

    def forward(self, x):
        return self.head(self.norm2(self.b(self.norm(self.a(x)))).flatten(1))


def test_weights_used_twice_get_the_sum_of_both_gradients(backend, images, labels):
    torch.manual_seed(0)
    shared = Twice(shared=True)
    apart = Twice(shared=False)
    apart.load_state_dict(shared.state_dict())
    nets = [quantized.prepare(m, backend=backend) for m in (shared, apart)]
    for net in nets:
        net.backward(quantized.cross_entropy(net, net(images), labels).error)
    assert nets[0].layers[0].weight is nets[0].layers[1].weight
    assert nets[0].layers[0].norm is nets[0].layers[1].norm
    assert len(list(nets[0].integer_parameters())) == 5
    parts = [layer.weight.gradient.real() for layer in nets[1].layers[:2]]
    assert torch.equal(nets[0].layers[0].weight.gradient.real(), parts[0] + parts[1])
    assert int(nets[0].layers[0].norm.num_batches_tracked) == 2
    again = quantized.prepare(shared, backend=backend)
    again.load_state_dict(nets[0].state_dict())
