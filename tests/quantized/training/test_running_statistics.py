"""Training by running statistics, which move, down to one image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import l1bn
from judge import assert_close
from l1bn import fixed_point as fp
from l1bn import quantized
from l1bn.fixed_point.norm.constant import share, threshold_of
from l1bn.quantized.kernels import native

RUNNING = quantized.Config(statistics="running")


def part(images: quantized.QTensor, start: int, stop: int) -> quantized.QTensor:
    return quantized.QTensor(images.values[start:stop], images.exponent)


def tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items() if isinstance(v, torch.Tensor)}


def trained_norm(channels: int = 4) -> nn.Module:
    torch.manual_seed(0)
    norm = l1bn.L1BatchNormAct2d(channels)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, 0, 0.2)
    norm.running_mean.uniform_(-0.5, 0.5)
    norm.running_var.uniform_(0.5, 2)
    norm.num_batches_tracked.fill_(100)
    return norm


def test_forward_and_gradient_are_those_of_frozen_statistics(backend):
    generator = torch.Generator().manual_seed(1)
    x, g = torch.randn(2, 1, 4, 6, 6, generator=generator).unbind()
    qx, qg = quantized.quantize(x, -5), quantized.quantize(g, -6)
    found = {}
    for kind in ("running", "frozen"):
        config = quantized.Config(statistics=kind, stochastic=False)
        model = nn.Sequential(nn.ReLU(), trained_norm())
        layer = quantized.prepare(model, config, backend=backend).layers[1]
        before = tensors(layer)
        y = layer(qx)
        dx = layer.backward(qg)[0]
        found[kind] = y.values, dx.values, layer.norm.gamma.gradient.values
        moved = any(not torch.equal(v, before[k]) for k, v in tensors(layer).items())
        assert moved == (kind == "running")
    for running, frozen in zip(found["running"], found["frozen"], strict=True):
        assert torch.equal(running, frozen)


def noise(exponent: int) -> quantized.QTensor:
    x = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    return quantized.QTensor(quantized.quantize(x, -5).values, exponent)


def extremes(exponent: int) -> quantized.QTensor:
    return quantized.QTensor(torch.tensor([-127, 127] * 18).char().view(1, 4, 3, 3), exponent)


@pytest.mark.parametrize(
    ("x", "momentum", "change"),
    [(noise(-5), 0.01, 0), (noise(-9), 0.01, -1), (extremes(-3), 1.0, 1)],
    ids=["steps stay", "steps shrink", "steps grow"],
)
def test_the_averages_move_as_the_judge_says(backend, x, momentum, change):
    config = quantized.Config(statistics="running", momentum=momentum)
    net = quantized.prepare(nn.Sequential(nn.Identity(), trained_norm()), config, backend=backend)
    norm = net.layers[-1].norm
    seen = torch.full((4,), x.exponent)
    exponent = torch.maximum(norm.running_exponent, seen)
    before = norm.running(exponent)
    net(x)
    data = x.values.transpose(0, 1).flatten(1).long().numpy()
    data = fp.rescale(data, (exponent - seen).numpy()[:, None])
    part = share(round(2048 * momentum), 100)
    moved = fp.toward(before, fp.sides(data, threshold_of(before)), part)
    kept, exponents = fp.settle(moved, exponent.numpy(), seen.numpy())
    np.testing.assert_array_equal(exponents, exponent.numpy() + change)
    np.testing.assert_array_equal(norm.running_mean.numpy(), kept.mean)
    np.testing.assert_array_equal(norm.running_var.numpy(), kept.variance)
    np.testing.assert_array_equal(norm.running_exponent.numpy(), exponents)
    assert norm.num_batches_tracked == 101


def test_the_first_batch_sets_the_statistics(backend):
    x = quantized.quantize(torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(3)), -5)
    model = nn.Sequential(nn.Identity(), l1bn.L1BatchNormAct2d(4))
    net = quantized.prepare(model, RUNNING, backend=backend)
    y = net(x).real()
    mean, variance = net.layers[-1].norm.real()
    real = x.real()
    wanted = real.mean((0, 2, 3))
    deviation = (real - wanted.view(1, -1, 1, 1)).abs().mean((0, 2, 3))
    assert_close(mean, wanted, "single sums")
    assert_close(variance.sqrt(), deviation * (torch.pi / 2) ** 0.5, "cancelling")
    x_hat = (real - mean.view(1, -1, 1, 1)) / variance.sqrt().view(1, -1, 1, 1)
    assert_close(y, x_hat.relu(), "eight-bit steps")


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    size=st.sampled_from([4, 8, 12]),
    sigma=st.sampled_from(["exact", "pow2"]),
    per_channel=st.booleans(),
)
def test_backends_agree_bit_by_bit(seed, batches, size, sigma, per_channel):
    if reason := native.unavailable():
        pytest.skip(reason)
    from l1bn.recipes.models import ModelSpec, build_model

    config = quantized.Config(statistics="running", sigma=sigma, per_channel=per_channel)
    states = []
    for name in ("eager", "cpu"):
        torch.manual_seed(seed)
        net = quantized.prepare(
            build_model("resnet8", "l1", ModelSpec(3, size, 4, 0.25)), config, name
        )
        optimizer = quantized.SGD(net, lr=0.1)
        for count in [2, *batches]:  # the first sets the statistics
            values = torch.randint(-127, 128, (count, 3, size, size), dtype=torch.int8)
            images = quantized.QTensor(values.contiguous(memory_format=torch.channels_last), -6)
            loss = quantized.cross_entropy(net, net(images), torch.arange(count) % 4)
            net.backward(loss.error)
            optimizer.step()
        states.append(tensors(net))
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_it_learns_from_single_images(network, images, labels, backend):
    """Sixteen images of noise by heart, one by one, four to a step."""
    if backend == "eager":
        pytest.skip("slow; it gives the same integers")
    net = network(config=quantized.Config(statistics="running", momentum=0.01))
    optimizer = quantized.SGD(net, lr=0.05, momentum=0.9)
    for _ in range(10):
        for i, image in enumerate(torch.randperm(16).tolist()):
            one = part(images, image, image + 1)
            error = quantized.cross_entropy(net, net(one), labels[image : image + 1]).error
            net.backward(quantized.QTensor(error.values, error.exponent - 2))
            if i % 4 == 3:
                optimizer.step()
    predicted = net.eval()(images).values.argmax(1)
    assert (predicted == labels).float().mean() > 0.9


def test_layers_of_one_value_train_once_a_batch_has_set_the_statistics(backend):
    model = nn.Sequential(nn.Linear(6, 5), l1bn.L1BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    net = quantized.prepare(model, RUNNING, backend=backend)
    x = quantized.quantize(torch.randn(4, 6), -5)
    with pytest.raises(ValueError, match=r"more than 1 value per channel .*once a batch has set"):
        net(part(x, 0, 1))
    net(x)
    before = tensors(net)
    loss = quantized.cross_entropy(net, net(part(x, 0, 1)), torch.tensor([1]))
    net.backward(loss.error)
    quantized.SGD(net, lr=0.1).step()
    changed = {k for k, v in tensors(net).items() if not torch.equal(v, before[k])}
    assert {"layers.0.norm.running_mean", "layers.0.weight.weight"} <= changed


def test_wild_batches_leave_statistics_in_range(backend):
    """Images of zeros and of extremes in turn: steps follow, nothing wraps."""
    net = quantized.prepare(nn.Sequential(nn.Identity(), trained_norm()), RUNNING, backend=backend)
    norm = net.layers[-1].norm
    shape = (1, 4, 2, 2)
    for i in range(60):
        values = torch.zeros(shape, dtype=torch.int8) if i % 3 else torch.full(shape, 127).char()
        net(quantized.QTensor(values.contiguous(memory_format=torch.channels_last), 3 * (i % 4)))
        mean, variance = norm.real()
        assert (mean.abs() < 127 * 2**9).all()
        assert (variance >= 0).all()
        assert (variance < (200 * 2**9) ** 2).all()
        assert (norm.running_exponent <= 12).all()


def test_a_checkpoint_goes_on_with_other_statistics(network, images, labels, train_step):
    first = network()
    train_step(first, images, labels)
    for kind in ("running", "frozen"):
        second = network(config=RUNNING)
        second.load_state_dict(first.state_dict())
        if kind == "frozen":
            second.freeze_statistics()
        train_step(second, part(images, 0, 1), labels[:1])


def test_what_is_out_of_range_is_refused(network):
    with pytest.raises(ValueError, match="expected statistics to be one of"):
        quantized.Config(statistics="moving")
    with pytest.raises(ValueError, match="expected a momentum of 1/2048 to 1, got 0"):
        quantized.Config(momentum=0)
    with pytest.raises(ValueError, match='"batch" or "frozen" with norm "l2", got "running"'):
        quantized.Config(norm="l2", statistics="running")
    with pytest.raises(ValueError, match="expected running statistics to freeze, got none"):
        network(config=quantized.Config(statistics="frozen"))
    one = quantized.Config(layers={"bn1": {"statistics": "running", "momentum": 0.5}})
    assert one.at("bn1").statistics == "running"
