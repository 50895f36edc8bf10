"""`quantized.SGD` is an optimizer of torch: groups, schedulers, state, closures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import l1bn
from l1bn import quantized


def network(backend="auto"):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        l1bn.L1BatchNormAct2d(4),
        nn.Flatten(),
        nn.Linear(256, 4),
    )
    return quantized.prepare(model, backend=backend)


def weights(net):
    return [p.weight.clone() for p in net.integer_parameters()]


def backward(net, images, labels):
    loss = quantized.cross_entropy(net, net(images), labels)
    net.backward(loss.error)
    return loss.value


def test_it_is_one(backend, images, labels):
    net = network(backend)
    optimizer = quantized.SGD(net, lr=0.1)
    assert isinstance(optimizer, torch.optim.Optimizer)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(optimizer.step(lambda: backward(net, images, labels)))
    assert losses[-1] < 0.7 * losses[0]


def test_schedulers_of_torch_set_the_rate(images, labels):
    first, second = network(), network()
    optimizer = quantized.SGD(first, lr=0.5)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], gamma=0.25)
    by_hand = quantized.SGD(second, lr=0.5)
    for rate in (0.5, 0.125, 0.03125):
        by_hand.lr = rate
        for net, opt in ((first, optimizer), (second, by_hand)):
            backward(net, images, labels)
            opt.step()
        schedule.step()
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_groups_have_rates_of_their_own(images, labels):
    net = network()
    groups = [{"params": [net.layers[-1]], "lr": 0.0}]
    optimizer = quantized.SGD(net, lr=0.25, groups=groups)
    before = weights(net)
    backward(net, images, labels)
    optimizer.step()
    names = [
        n for n, m in net.named_modules() if isinstance(m, quantized.parameter.IntegerParameter)
    ]
    for name, old, new in zip(names, before, weights(net), strict=True):
        assert torch.equal(old, new) == name.startswith("layers.2"), name
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.0]
    optimizer.lr = 0.125
    assert [g["lr"] for g in optimizer.param_groups] == [0.125, 0.125]


def test_a_group_may_hold_everything(images, labels):
    net = network()
    optimizer = quantized.SGD(net, lr=0.0, groups=[{"params": net, "lr": 0.25}])
    before = weights(net)
    backward(net, images, labels)
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, weights(net), strict=True))


def test_its_state_moves_on(images, labels):
    nets = [network(), network()]
    groups = [[{"params": [net.layers[-1]], "lr": 0.1}] for net in nets]
    optimizers = [
        quantized.SGD(n, lr=lr, groups=g) for n, g, lr in zip(nets, groups, (0.5, 0.1), strict=True)
    ]
    backward(nets[0], images, labels)
    optimizers[0].step()
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    for net, optimizer in zip(nets, optimizers, strict=True):
        backward(net, images, labels)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(weights(nets[0]), weights(nets[1]), strict=True))


def test_groups_that_cannot_be_are_refused():
    net, other = network(), network()
    head = net.layers[-1]
    for groups, message in (
        ([{"params": [head]}, {"params": [head.weight]}], "got one of two groups"),
        ([{"params": [other.layers[-1]]}], "got one of another network"),
        ([{"params": [head], "dampening": 0.1}], "expected options among .* got dampening"),
        ([{"params": [head], "lr": 100.0}], "expected a rate in"),
    ):
        with pytest.raises(ValueError, match=message):
            quantized.SGD(net, lr=0.1, groups=groups)
    with pytest.raises(TypeError, match=r"expected layers or parameters .* got Tensor"):
        quantized.SGD(net, lr=0.1, groups=[{"params": [head.weight.weight]}])
