"""The profile of an integer step counts every product and byte of the calls it times."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.integers import profile
from l1bn import quantized
from l1bn.quantized.kernels import native

if reason := native.unavailable():
    pytest.skip(reason, allow_module_level=True)


def test_products_and_bytes_of_a_step() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    net = quantized.prepare(model, backend="cpu")
    kernels = profile.watch(net)
    images = torch.randint(-127, 128, (2, 4, 6, 6), dtype=torch.int8)
    x = quantized.QTensor(images.contiguous(memory_format=torch.channels_last), -6)
    loss = quantized.cross_entropy(net, net(x), torch.tensor([0, 1]))
    net.backward(loss.error)
    first, second, last = 2 * 9 * 8 * (4 * 9), 2 * 9 * 8 * (2 * 9), 2 * 3 * 8
    assert kernels.spent["conv2d"].macs == first + second + last
    assert kernels.spent["conv2d_weight_gradient"].macs == first + second + last
    assert kernels.spent["conv2d_input_gradient"].macs == second + last  # none to the images
    assert all(s.calls > 0 and s.seconds > 0 for s in kernels.spent.values())
    quarter = profile.nbytes((x.values, [torch.zeros(3, dtype=torch.int32)], "name", 1))
    assert quarter == 2 * 4 * 36 + 12


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("isa", profile.PEAK_FLAGS)
def test_the_peak_stays_in_registers(isa: str, tmp_path: Path) -> None:
    listing = tmp_path / "peak.s"
    profile.compile_peak(isa, "-S", "-o", str(listing))
    lines = listing.read_text().splitlines()
    places = [i for i, line in enumerate(lines) if re.search("pdpbusd|pmaddwd", line)]
    assert len(places) == 12
    turn = lines[places[0] : places[-1] + 1]
    assert not [line for line in turn if "(%" in line]
