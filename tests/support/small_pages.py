"""Small pages that learn: a network, and real digits that it knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from l1bn import device, quantized, tools
from l1bn.device.web.page import Shown
from small_networks import CLASSES, EXPONENT, digits, resnet8, trained

BATCH = 8


def codes() -> torch.Tensor:
    """Levels of 0 to 255 as −1 to 1, as ``small_networks.digits`` has them."""
    levels = torch.arange(256) / 128 - 1
    return quantized.quantize(levels.view(1, 1, 1, 256), EXPONENT).values.view(1, 256)


def known(count: int, held: int) -> Shown:
    """Real digits, the last of them kept aside."""
    images, labels = digits(0, count + held)
    pixels = ((images.values.float() / 32 + 1) * 128).clamp(0, 255).to(torch.uint8)
    aside = torch.arange(count + held) >= count
    names = [str(c) for c in range(CLASSES)]
    return Shown("digits", names, codes(), pixels, labels, aside, dark=True)


def planned(learn: device.Learn = "all", **options: Any) -> device.Build:
    torch.manual_seed(0)
    network = trained(resnet8(4))
    device.choose(network, learn)
    return device.build(network, (1, 8, 8), device.Options(batch=BATCH, **options))


def needs_tools() -> None:
    if reason := tools.missing("clang", "wasm-ld", "node"):
        pytest.skip(reason)
