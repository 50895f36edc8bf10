"""Whole runs: a network learns, backends agree bit by bit, a restored run goes on exactly."""

from __future__ import annotations

import io

import pytest
import torch

from l1bn import quantized
from l1bn.quantized.kernels import native
from l1bn.recipes.models import ModelSpec, build_model


def tensors(net):
    return {k: v for k, v in net.state_dict().items() if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize("model", ["resnet8", "vgg7"])
def test_a_network_learns_a_batch(network, train_step, images, labels, model):
    net = network(model)
    losses = [train_step(net, images, labels, lr=0.05).value for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.skipif(native.unavailable() is not None, reason=str(native.unavailable()))
@pytest.mark.parametrize("sigma", ["exact", "pow2"])
def test_backends_agree_bit_by_bit(train_step, images, labels, sigma):
    states = []
    for backend in ("eager", "cpu"):
        torch.manual_seed(2)
        model = build_model("resnet8", "l1", ModelSpec(3, 8, 4))
        net = quantized.prepare(model, quantized.Config(sigma=sigma), backend=backend)
        for _ in range(4):
            train_step(net, images, labels)
        states.append(tensors(net))
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_a_restored_network_goes_on_exactly(network, train_step, images, labels):
    net = network()
    for _ in range(2):
        train_step(net, images, labels)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = network()
    other.load_state_dict(torch.load(file, weights_only=True))
    for each in (net, other):
        train_step(each, images, labels)
    assert all(torch.equal(v, tensors(other)[k]) for k, v in tensors(net).items())


def test_the_seed_decides_the_rounding(network, train_step, images, labels):
    nets = [network(config=quantized.Config(seed=s)) for s in (0, 0, 1)]
    for net in nets:
        train_step(net, images, labels)
    first, same, other = (tensors(net) for net in nets)
    assert all(torch.equal(v, same[k]) for k, v in first.items())
    assert any(not torch.equal(v, other[k]) for k, v in first.items())


def test_it_keeps_less_than_a_third_of_a_float_network(images):
    torch.manual_seed(0)
    spec = ModelSpec(3, 32, 10)
    x = torch.randn(8, 3, 32, 32)
    model = build_model("resnet20", "l2", spec)
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        model(x)
    net = quantized.prepare(build_model("resnet20", "l1", spec))
    net(quantized.quantize(x, -5))
    assert net.kept_bytes() <= 0.3 * sum(s.nbytes() for s in kept.values())


def test_an_evaluation_between_forward_and_backward_changes_nothing(backend, images, labels):
    def gradients(between):
        torch.manual_seed(0)
        model = build_model("resnet8", "l1", ModelSpec(3, 8, 4))
        net = quantized.prepare(model, backend=backend)
        loss = quantized.cross_entropy(net, net(images), labels)
        if between:
            net.eval()
            net(quantized.QTensor(images.values[:2, :, ::2, ::2].clone(), images.exponent))
            net.train()
        net.backward(loss.error)
        return [p.gradient.values for p in net.integer_parameters()]

    for plain, disturbed in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, disturbed)


def test_a_rate_out_of_range_moves_nothing(backend, images, labels):
    torch.manual_seed(0)
    net = quantized.prepare(build_model("resnet8", "l1", ModelSpec(3, 8, 4)), backend=backend)
    optimizer = quantized.SGD(net, lr=0.1)
    net.set_rates(1.0, 1000.0)
    net.backward(quantized.cross_entropy(net, net(images), labels).error)
    before = [p.weight.clone() for p in net.integer_parameters()]
    with pytest.raises(ValueError, match=r"expected a rate in \[0, 64\]"):
        optimizer.step()
    for parameter, weight in zip(net.integer_parameters(), before, strict=True):
        assert torch.equal(parameter.weight, weight)
    with pytest.raises(ValueError, match=r"expected a rate in \[0, 64\]"):
        quantized.SGD(net, lr=0.1)


def test_rates_of_zero_are_named(backend, images, labels):
    net = quantized.prepare(build_model("resnet8", "l1", ModelSpec(3, 8, 4)), backend=backend)
    net.set_rates(0.0, 0.0)
    error = quantized.cross_entropy(net, net(images), labels).error
    with pytest.raises(RuntimeError, match="all rates are 0"):
        net.backward(error)
