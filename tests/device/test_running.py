"""Layers that normalize by running statistics, and move them, do on a device as in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from l1bn import device, quantized
from small_networks import digits, dscnn, odd, resnet8, take_step, trained

CASES: dict[str, tuple[Callable[[], nn.Module], device.Learn, dict[str, Any], dict[str, Any]]] = {
    "one image": (resnet8, "all", {}, {"batch": 1}),
    "a batch": (resnet8, "all", {"momentum": 0.3}, {"batch": 6}),
    "last stage in little memory": (resnet8, 4, {}, {"batch": 2, "ram": 43_300}),
    "separable": (dscnn, "all", {"sigma": "pow2"}, {"batch": 2}),
    "one exponent": (resnet8, "all", {"per_channel": False, "stochastic": False}, {"batch": 3}),
    "a norm of its own": (odd, "all", {"momentum": 1.0}, {"batch": 4}),
    "affine": (resnet8, "affine", {}, {"batch": 1}),
}


def compare(build: device.Build, host: Any, batches: list[quantized.QTensor], rate: float) -> None:
    """Take a step of each batch here and there, and compare everything after each."""
    options = build.options
    optimizer = quantized.SGD(build.network, rate, options.momentum)
    for step, images in enumerate(batches):
        labels = torch.arange(options.batch) % build.classes
        wanted = take_step(build.network, optimizer, images, labels)
        status, logits = host.train(images, labels.numpy(), rate)
        assert status == 0
        np.testing.assert_array_equal(logits, wanted.numpy(), f"logits of step {step}")
        assert host.state == build.layout.pack(), f"state after step {step}"


def batches(size: int, count: int) -> list[quantized.QTensor]:
    return [digits(size * step, size)[0] for step in range(count)]


@pytest.mark.parametrize("name", CASES)
def test_running_statistics_serve_and_move(name: str, on_host: Any) -> None:
    torch.manual_seed(0)
    model, learn, config, options = CASES[name]
    network = trained(model(), quantized.Config(statistics="running", **config))
    for parameter in network.integer_parameters():
        parameter.forget_momentum()
    device.choose(network, learn)
    build = device.build(network, (1, 8, 8), device.Options(**options))
    host = on_host(build)
    compare(build, host, batches(build.options.batch, 8), rate=0.02)
    network.eval()
    for index in range(4):
        image, _ = digits(300 + index, 1)
        np.testing.assert_array_equal(host.infer(image), network(image).values[0].numpy())


def test_the_first_batch_on_a_device_sets_them(on_host: Any) -> None:
    torch.manual_seed(1)
    network = quantized.prepare(resnet8(), quantized.Config(statistics="running"))
    device.choose(network, "all")
    build = device.build(network, (1, 8, 8), device.Options(batch=6))
    compare(build, on_host(build), batches(6, 5), rate=0.05)


def test_statistics_follow_leaps_of_the_data(on_host: Any) -> None:
    """Steps grow beside large numbers, and shrink where all become small."""
    torch.manual_seed(2)
    network = trained(resnet8(), quantized.Config(statistics="running", momentum=0.5))
    device.choose(network, "all")
    build = device.build(network, (1, 8, 8), device.Options(batch=2))
    host, generator = on_host(build), torch.Generator().manual_seed(3)
    found = []
    norm = build.tables.norms[0].norm
    exponents: list[int] = []
    for size in (1, 1, 1, 1, 1, 1, 127, 127, 127, 2, 2, 2, 2, 0, 0, 127, 127):
        values = torch.randint(-size, size + 1, (2, 1, 8, 8), generator=generator)
        pixels = values.to(torch.int8).contiguous(memory_format=torch.channels_last)
        found.append(quantized.QTensor(pixels, build.options.exponent))
    for images in found:
        compare(build, host, [images], rate=0.0)
        exponents.append(int(norm.running_exponent[0]))
    changes = set(np.sign(np.diff(exponents)).tolist())
    assert changes >= {-1, 1}


def test_rested_layers_move_their_statistics(on_host: Any) -> None:
    torch.manual_seed(4)
    network = trained(resnet8(), quantized.Config(statistics="running"))
    device.choose(network, "all")
    build = device.build(network, (1, 8, 8), device.Options(batch=2))
    host, before = on_host(build), build.layout.pack()
    build.blocks.limit(network, build.blocks.last(1))
    images, labels = digits(0, 2)
    take_step(network, quantized.SGD(network, 0.05, 0.9), images, labels)
    host.train(images, labels.numpy(), 0.05, build.blocks.last(1))
    first = build.layout.statistics[id(build.tables.norms[0])]["running_mean"]
    assert host.state == build.layout.pack()
    assert host.state[first.offset : first.end] != before[first.offset : first.end]
