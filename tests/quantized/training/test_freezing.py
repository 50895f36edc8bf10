"""Frozen layers and frozen statistics: what transfer and continual learning need."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import l1bn
from l1bn import quantized


def state(net):
    return {k: v.clone() for k, v in net.state_dict().items() if isinstance(v, torch.Tensor)}


def test_a_frozen_backbone_stays_and_keeps_nothing(network, train_step, images, labels):
    net = network()
    train_step(net, images, labels)
    net.set_rates(backbone=0.0)
    net.freeze_statistics()
    before = state(net)
    net(images)
    assert not any(layer.kept() for layer in list(net.layers)[:-1])
    train_step(net, images, labels)
    changed = {
        k for k, v in net.state_dict().items() if k in before and not torch.equal(v, before[k])
    }
    assert changed
    head = f"layers.{len(net.layers) - 1}."
    exponents = ("scaling.exponent", "scaling.seen")  # they must hold whatever data comes
    assert all(k.startswith(head) or k.endswith(exponents) for k in changed), changed


def test_a_slow_backbone_moves_less(network, train_step, images, labels):
    moved = {}
    for rate in (1.0, 0.125):
        net = network()
        net.set_rates(backbone=rate)
        before = net.layers[0].weight.real()
        train_step(net, images, labels)
        moved[rate] = float((net.layers[0].weight.real() - before).abs().mean())
    assert moved[0.125] < 0.3 * moved[1.0]


def test_frozen_statistics_follow_the_float_formula(backend):
    torch.manual_seed(0)
    norm = l1bn.L1BatchNormAct2d(4)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, 0, 0.2)
    norm.running_mean.uniform_(-0.5, 0.5)
    norm.running_var.uniform_(0.5, 2)
    norm.num_batches_tracked.fill_(1)
    net = quantized.prepare(nn.Sequential(nn.ReLU(), norm), backend=backend)
    net.freeze_statistics()
    layer = net.layers[1]
    generator = torch.Generator().manual_seed(1)
    x, g = torch.randn(2, 16, 4, 6, 6, generator=generator).unbind()
    qx, qg = quantized.quantize(x, -5), quantized.quantize(g, -6)
    before = state(net)
    y = layer(qx)
    dx = layer.backward(qg)[0]
    assert all(torch.equal(v, before[k]) for k, v in state(net).items())

    real = qx.real().requires_grad_()
    weight, bias = layer.norm.gamma.real(), layer.norm.beta.real()
    weight.requires_grad_()
    z = nn.functional.batch_norm(real, norm.running_mean, norm.running_var, weight, bias)
    expected = z.relu()
    largest = float(expected.detach().max())
    assert (y.real() - expected.detach()).abs().max() < 0.6 * 2.0**-4 + 0.01 * largest
    agree = (y.values > 0) == (expected > 0)
    expected.backward(torch.where(agree, qg.real(), 0))
    error = (dx.real() - real.grad)[agree].abs().max()
    assert error < 1.05 * 2.0**dx.exponent + 0.01 * float(real.grad.abs().max())
    dgamma = layer.norm.gamma.gradient.values * 2.0**qg.exponent
    assert ((dgamma - weight.grad).abs() < 2.0 + 0.03 * weight.grad.abs()).all()


def test_statistics_that_do_not_exist_cannot_be_frozen(network):
    with pytest.raises(ValueError, match="expected running statistics to freeze, got none"):
        network().freeze_statistics()
