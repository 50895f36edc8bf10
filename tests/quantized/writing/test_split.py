"""Two halves of a network compute what the whole does, and share its weights."""

from __future__ import annotations

import pytest
import torch

from l1bn import quantized


def test_the_halves_are_the_whole(network, images):
    net = network().eval()
    front, back = quantized.split(net, "blocks.0.norm2")
    middle = front(images)
    assert middle.values.dtype == torch.int8
    assert torch.equal(back(middle).values, net(images).values)
    shared = {id(p) for part in (front, back) for p in part.integer_parameters()}
    assert shared == {id(p) for p in net.integer_parameters()}


def test_the_back_learns_and_the_front_rests(network, train_step, images, labels):
    net = network()
    train_step(net, images, labels)
    front, back = quantized.split(net, "blocks.1.norm2")
    before = [p.weight.clone() for p in front.integer_parameters()]
    kept = front.eval()(images)
    losses = [train_step(back, kept, labels, lr=0.05).value for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    after = [p.weight for p in front.integer_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(net.eval()(images).values, back.eval()(kept).values)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.0.norm1", r"blocks\.0\.norm1: .* one that blocks\.0\.shortcut passes by"),
        ("head", "expected a layer before the last to cut after"),
        ("nowhere", r"cut after \(stem\.1, .*, got 'nowhere'"),
    ],
)
def test_cuts_through_a_branch_are_refused(network, name, message):
    with pytest.raises(ValueError, match=message):
        quantized.split(network(), name)
