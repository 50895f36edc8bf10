"""Back to a float model, and more classes than before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import l1bn
from l1bn import quantized
from mlperf_tiny import DSCNN


def test_the_float_copy_computes_what_the_integers_learned(train_step, labels):
    torch.manual_seed(0)
    model = DSCNN(16)
    images = quantized.quantize(torch.randn(16, 1, 49, 10).clamp(-3.9, 3.9), -5)
    net = quantized.prepare(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(30):
        train_step(net, images, labels, lr=0.05)
    back = quantized.to_float(net, model).eval()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    got, want = back(images.real()).detach(), net.eval()(images).real()
    assert float((got - want).std() / want.std()) < 0.15
    assert (got.argmax(1) == want.argmax(1)).float().mean() > 0.85
    again = quantized.prepare(back.train())
    for a, b in zip(net.integer_parameters(), again.integer_parameters(), strict=True):
        assert (a.real() - b.real()).abs().max() <= 2.0**b.exponent


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, l1bn.L1BatchNorm1d])
def test_layers_of_every_rank_go_back(norm):
    model = nn.Sequential(nn.Conv1d(2, 4, 3), norm(4), nn.Flatten(), nn.Linear(24, 2))
    back = quantized.to_float(quantized.prepare(model), model)
    for key, value in back.state_dict().items():
        assert float((value - model.state_dict()[key]).abs().max()) <= 2.0**-10  # a rounding


def test_another_model_is_refused():
    net = quantized.prepare(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"1\.weight: expected 8 numbers .*, got shape \(3, 4\)"):
        quantized.to_float(net, nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)))
    with pytest.raises(ValueError, match=r"0\.weight: expected 16 numbers .*, got none"):
        quantized.to_float(net, nn.Linear(4, 4))


def test_a_head_grows_and_keeps_what_it_knew(backend, train_step, images, labels):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)
    )
    net = quantized.prepare(model, backend=backend)
    optimizer = quantized.SGD(net, lr=0.05)
    train_step(net, images, labels)
    before = net.eval()(images)
    momentum = net.layers[-1].weight.momentum.clone()
    net.grow(6)
    after = net(images)
    assert after.shape == (16, 6)
    assert torch.equal(after.values[:, :4], before.values)
    assert not after.values[:, 4:].any()
    assert torch.equal(net.layers[-1].weight.momentum[:4], momentum)
    net.train()
    for _ in range(30):
        loss = quantized.cross_entropy(net, net(images), labels + 2)
        net.backward(loss.error)
        optimizer.step()
    assert (net.eval()(images).values.argmax(1) == labels + 2).float().mean() > 0.8


def test_heads_that_cannot_grow_are_refused():
    net = quantized.prepare(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="expected more than its 4 classes, got 4"):
        net.grow(4)
    with pytest.raises(ValueError, match="expected a network that ends in a linear layer"):
        quantized.prepare(nn.Conv2d(3, 4, 3)).grow(8)


class TestChoicesOfALayer:
    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
            nn.Flatten(),
            nn.Linear(144, 4),
        )

    def test_a_part_of_the_network_has_its_own(self, images, labels):
        choices = {"0": {"master_bits": 12}, "0.0": {"error_bits": 4}, "2": {"error_bits": 3}}
        net = quantized.prepare(self.model(), quantized.Config(layers=choices))
        first, _, last = net.layers
        assert first.weight.bits == first.norm.gamma.bits == 12
        assert last.weight.bits == 16
        assert net.config.at("0.0").error_bits == 4
        assert net.config.at("0.1") == quantized.Config(master_bits=12)
        whole = quantized.Config(layers={"": {"error_bits": 4}, "2": {"error_bits": 3}})
        assert [whole.at(name).error_bits for name in ("0.0", "2")] == [4, 3]
        net.backward(quantized.cross_entropy(net, net(images), labels).error)
        assert int(last.weight.gradient.values.abs().max()) <= 3

    @pytest.mark.parametrize(
        ("choices", "message"),
        [
            ({"0": {"norm": "l2"}}, "expected choices of 0 among .*, got norm"),
            ({"0": {"error_bits": 9}}, "expected error_bits of 2 to 8, got 9"),
            ({"stem": {"error_bits": 4}}, "parts of the network, got some for 'stem'"),
        ],
    )
    def test_what_no_layer_has_is_refused(self, choices, message):
        with pytest.raises(ValueError, match=message):
            quantized.prepare(self.model(), quantized.Config(layers=choices))

    def test_a_state_names_them(self):
        chosen = quantized.Config(layers={"2": {"master_bits": 8}})
        state = quantized.prepare(self.model(), chosen).state_dict()
        with pytest.raises(ValueError, match="expected a state of layers="):
            quantized.prepare(self.model()).load_state_dict(state)
        quantized.prepare(self.model(), chosen).load_state_dict(state)


def test_a_state_older_than_an_option_is_of_its_default():
    net = quantized.prepare(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    state = net.state_dict()
    for name in ("layers", "norm"):
        extra = state["_extra_state"]
        old = {k: v for k, v in extra["config"].items() if k != name}
        net.load_state_dict({**state, "_extra_state": {**extra, "config": old}})
