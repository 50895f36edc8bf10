"""Gradients of several backward passes add up before a step, as in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import l1bn
from l1bn import fixed_point as fp
from l1bn import quantized


@pytest.fixture
def net(backend):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        l1bn.L1BatchNormAct2d(4),
        nn.Flatten(),
        nn.Linear(256, 4),
    )
    return quantized.prepare(model, backend=backend)


def backward(net, images, labels, exponent=0):
    error = quantized.cross_entropy(net, net(images), labels).error
    net.backward(quantized.QTensor(error.values, error.exponent + exponent))
    return [(p.gradient.values.clone(), p.gradient.exponent) for p in net.integer_parameters()]


def exact(values: torch.Tensor, exponent: int, finest: int) -> np.ndarray:
    return values.numpy().astype(object) * 2 ** (exponent - finest)


def test_the_sum_is_that_of_the_single_passes(net, images, labels):
    singles = []
    for passes, exponent in enumerate((0, -3, 5)):
        net.zero_grad()
        net.clock.passes = passes
        singles.append(backward(net, images, labels, exponent))
    net.zero_grad()
    for exponent in (0, -3, 5):
        total = backward(net, images, labels, exponent)
    for index, (values, exponent) in enumerate(total):
        finest = min([exponent, *(s[index][1] for s in singles)])
        want = sum(exact(*s[index], finest) for s in singles)
        assert (exact(values, exponent, finest) == want).all()


def test_rounding_noise_of_the_passes_differs(net, images, labels):
    first = backward(net, images, labels)
    total = backward(net, images, labels)
    second = [t - f for (t, te), (f, fe) in zip(total, first, strict=True) if te == fe]
    assert any(not torch.equal(s, f) for s, (f, _) in zip(second, first, strict=False))


def test_a_step_takes_the_sum_and_forgets_it(net, images, labels):
    optimizer = quantized.SGD(net, lr=0.1, weight_decay=1e-3)
    backward(net, images, labels)
    backward(net, images, labels)
    judged = []
    for index, p in enumerate(net.integer_parameters()):
        noise = net.clock.update_noise(index)
        weight, momentum = (t.numpy().astype(np.int64) for t in (p.weight, p.momentum))
        moved = fp.sgd_step(
            fp.Master(weight, p.exponent, momentum, p.momentum_exponent),
            p.gradient.values.numpy(),
            p.gradient.exponent,
            fp.SgdStep.quantize(0.1, 0.9, 1e-3 if p.decays else 0.0),
            seed=noise.seed,
            stream=noise.stream,
        )
        judged.append(fp.make_room(moved))
    optimizer.step()
    for p, moved in zip(net.integer_parameters(), judged, strict=True):
        np.testing.assert_array_equal(p.weight.numpy(), moved.weight)
        assert p.gradient is None
    assert net.clock.passes == 0


def test_the_same_batch_twice_at_half_the_error_is_the_batch(net, images, labels):
    """Rounding apart, two passes at half the error add up to one at the whole error."""
    whole = backward(net, images, labels)
    net.zero_grad()
    backward(net, images, labels, -1)
    halves = backward(net, images, labels, -1)
    for (values, exponent), (total, at) in zip(whole, halves, strict=True):
        a, b = values.double() * 2.0**exponent, total.double() * 2.0**at
        assert float((a - b).abs().max()) <= 0.05 * float(a.abs().max())


def test_evaluation_between_passes_changes_nothing(net, images, labels):
    backward(net, images, labels)
    net.eval()
    net(images)
    net.train()
    first = backward(net, images, labels)
    net.zero_grad()
    backward(net, images, labels)
    for (a, ae), (b, be) in zip(first, backward(net, images, labels), strict=True):
        assert ae == be
        assert torch.equal(a, b)


@pytest.mark.parametrize("gap", [0, 1, 20, 40, 61, 62, 100, 5000])
@pytest.mark.parametrize("peak", [1, 127, 2**31 - 1, 2**55])
def test_the_judge_is_exact_or_nearest(gap, peak):
    rng = np.random.default_rng(gap)
    a = rng.integers(-peak, peak, 50, endpoint=True)
    b = rng.integers(-127, 128, 50)
    total, exponent = fp.accumulate(a, gap - 30, b, -30)
    assert np.abs(total).max() < 2**62
    for found, left, right in zip(total.tolist(), a.tolist(), b.tolist(), strict=True):
        want = (left << gap) + right  # in steps of 2**-30
        off = abs((found << (exponent + 30)) - want)
        assert off <= (0 if exponent == -30 else 1 << (exponent + 30))
    assert exponent == max(-30, int(np.abs(a).max()).bit_length() + gap - 30 - 61)


def test_zeros_have_no_exponent():
    zeros, ones = np.zeros(3, dtype=np.int64), np.ones(3, dtype=np.int64)
    for a, b in ((zeros, ones), (ones, zeros)):
        total, exponent = fp.accumulate(a, -400 if a is zeros else 7, b, 7 if a is zeros else 900)
        assert (total.tolist(), exponent) == ([1, 1, 1], 7)
    assert fp.accumulate(zeros, 3, zeros, -5)[0].tolist() == [0, 0, 0]
