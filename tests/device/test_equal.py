"""A device's integers are Python's: logits, weights, momentum, running statistics, exponents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import l1bn
from l1bn import device, quantized
from small_networks import (
    arranged,
    digits,
    dscnn,
    lenet,
    odd,
    resnet8,
    take_step,
    trained,
    uneven,
)

STEPS = 20
FEW = 6
BATCH = 6


def flat() -> nn.Module:
    """Channels of one value but for a step here and there: their floor holds."""
    convolution = nn.Conv2d(1, 16, 3)
    with torch.no_grad():
        convolution.weight.mul_(1e-3)
        convolution.bias.copy_(1 + torch.arange(16) / 16 / 64)
    norm = l1bn.L1BatchNorm2d(16)
    return nn.Sequential(convolution, norm, nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], device.Learn, dict[str, Any], dict[str, Any]]] = {
    "resnet8": (resnet8, "all", {}, {"weight_decay": 1e-3}),
    "resnet8 in little memory": (resnet8, "all", {}, {"ram": 80_000}),
    "last stage": (resnet8, 4, {}, {"momentum": 0.0}),
    "classifier": (resnet8, "classifier", {}, {"smoothing": 0.1}),
    "affine": (resnet8, "affine", {}, {"nesterov": False}),
    "power-of-two sigma": (resnet8, 3, {"sigma": "pow2", "seed": 7}, {}),
    "one exponent, nearest": (resnet8, 4, {"per_channel": False, "stochastic": False}, {}),
    "no norm": (lenet, "all", {}, {"weight_decay": 1e-2}),
    "narrow errors and masters": (lenet, 3, {"error_bits": 6, "master_bits": 13}, {}),
    "separable": (dscnn, "all", {}, {"weight_decay": 1e-3}),
    "separable in little memory": (dscnn, "all", {}, {"ram": 30_080}),
    "separable, nearest": (dscnn, 4, {"stochastic": False}, {}),
    "uneven windows": (uneven, "all", {}, {}),
    "uneven windows in little memory": (uneven, "all", {}, {"momentum": 0.0, "ram": 10_840}),
    "other layers": (odd, "all", {"residual_fraction": 4}, {}),
    "joined, enlarged, padded": (arranged, "all", {}, {}),
    "joined, enlarged, padded, nearest": (arranged, "all", {"stochastic": False}, {"ram": 20_100}),
    "joined, enlarged, padded, frozen": (arranged, "classifier", {}, {}),
    "joined, enlarged, padded, some": (arranged, 3, {"error_bits": 6}, {"batch": 3}),
    # Squares of its deviations carry into the upper half of 128 bits.
    "a large batch": (resnet8, "all", {}, {"batch": 32}),
    "channels that hardly vary": (flat, "all", {}, {}),
}


def learn_side_by_side(
    build: device.Build, host: Any, rate: float = 0.05, steps: int = FEW
) -> None:
    """Take the same steps here and there, and compare everything after each."""
    network, options = build.network, build.options
    optimizer = quantized.SGD(
        network, rate, options.momentum, options.weight_decay, options.nesterov
    )
    assert host.state == build.layout.pack()
    for step in range(steps):
        images, labels = digits(options.batch * step, options.batch)
        wanted = take_step(network, optimizer, images, labels, options.smoothing)
        status, logits = host.train(images, labels.numpy(), rate)
        assert status == 0
        np.testing.assert_array_equal(logits, wanted.numpy(), f"logits of step {step}")
        assert host.state == build.layout.pack(), f"state after step {step}"


@pytest.mark.parametrize("name", CASES)
def test_a_device_learns_what_python_learns(name: str, on_host: Any) -> None:
    torch.manual_seed(0)
    model, learn, config, options = CASES[name]
    floats = model()
    floats(torch.zeros(2, 1, 8, 8))
    network = trained(floats, quantized.Config(**config))
    for parameter in network.integer_parameters():
        parameter.forget_momentum()
    device.choose(network, learn)
    build = device.build(network, (1, 8, 8), device.Options(**{"batch": BATCH, **options}))
    host = on_host(build)
    before = host.state
    steps = (
        STEPS if name in ("resnet8", "no norm", "separable", "joined, enlarged, padded") else FEW
    )
    learn_side_by_side(build, host, steps=steps)
    assert host.state != before
    network.eval()
    for index in range(8):
        image, _ = digits(300 + index, 1)
        np.testing.assert_array_equal(host.infer(image), network(image).values[0].numpy())


def test_frozen_statistics_stay_and_gradients_hold(on_host: Any) -> None:
    torch.manual_seed(1)
    network = trained(resnet8())
    device.choose(network, "all")
    network.freeze_statistics()
    build = device.build(network, (1, 8, 8), device.Options(batch=1))
    learn_side_by_side(build, on_host(build), rate=0.01)


def test_an_untrained_network_starts_on_the_device(on_host: Any) -> None:
    torch.manual_seed(2)
    network = quantized.prepare(resnet8())
    device.choose(network, "all")
    build = device.build(network, (1, 8, 8), device.Options(batch=BATCH))
    learn_side_by_side(build, on_host(build), steps=4)


def test_python_goes_on_where_a_device_stopped(on_host: Any) -> None:
    torch.manual_seed(3)
    network = trained(resnet8())
    device.choose(network, 4)
    build = device.build(network, (1, 8, 8), device.Options(batch=BATCH))
    host = on_host(build)
    for step in range(3):
        images, labels = digits(BATCH * step, BATCH)
        host.train(images, labels.numpy(), 0.05)
    build.layout.unpack(host.state)
    learn_side_by_side(build, host, steps=3)


def test_largest_inputs_saturate_as_in_python(on_host: Any) -> None:
    torch.manual_seed(4)
    network = trained(resnet8())
    device.choose(network, "all")
    build = device.build(network, (1, 8, 8), device.Options(batch=BATCH))
    host, optimizer = on_host(build), quantized.SGD(network, lr=64.0)
    noise = torch.randint(0, 2, (BATCH, 1, 8, 8), generator=torch.Generator().manual_seed(5))
    values = (noise * 254 - 127).to(torch.int8).contiguous(memory_format=torch.channels_last)
    images = quantized.QTensor(values, build.options.exponent)
    labels = torch.arange(BATCH)
    for step in range(6):
        wanted = take_step(network, optimizer, images, labels)
        _, logits = host.train(images, labels.numpy(), 64.0)
        np.testing.assert_array_equal(logits, wanted.numpy(), f"logits of step {step}")
        assert host.state == build.layout.pack(), f"state after step {step}"
