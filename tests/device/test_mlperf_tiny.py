"""The networks of MLPerf Tiny with depthwise convolutions learn whole, as in Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from l1bn import device, quantized
from mlperf_tiny import DSCNN, MobileNetV1
from small_networks import take_step

BATCH, RATE = 2, 0.05


@pytest.mark.parametrize(
    ("model", "shape"),
    [(lambda: MobileNetV1(1.0), (3, 96, 96)), (DSCNN, (1, 49, 10))],
    ids=["MobileNetV1", "DS-CNN"],
)
def test_a_network_of_mlperf_tiny_learns(model: Any, shape: tuple[int, ...], on_host: Any) -> None:
    torch.manual_seed(0)
    network = quantized.prepare(model())
    device.choose(network, "all")
    build = device.build(network, shape, device.Options(batch=BATCH, momentum=0.0))
    host = on_host(build)
    optimizer = quantized.SGD(network, RATE, momentum=0.0)
    before = host.state
    for step in range(2):
        images = quantized.quantize(torch.randn(BATCH, *shape).clamp(-3.9, 3.9), -5)
        labels = torch.arange(BATCH)
        wanted = take_step(network, optimizer, images, labels)
        status, logits = host.train(images, labels.numpy(), RATE)
        assert status == 0
        np.testing.assert_array_equal(logits, wanted.numpy(), f"logits of step {step}")
        assert host.state == build.layout.pack(), f"state after step {step}"
    assert host.state != before
