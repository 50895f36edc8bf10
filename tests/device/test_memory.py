"""Buffers whose lives overlap share no byte, and the arena is close to the least there can be."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import pytest
import torch

from l1bn import device
from l1bn.device.program.memory import ALIGNMENT, Placement, aligned
from small_networks import dscnn, lenet, resnet8, trained, uneven


def _disjoint(memory: Placement) -> None:
    for a, b in combinations(memory.offsets, 2):
        first, second = memory.lives[a], memory.lives[b]
        if first.first > second.last or second.first > first.last:
            continue
        start, other = memory.offsets[a], memory.offsets[b]
        assert start + a.size * first.copies <= other or other + b.size * second.copies <= start


@pytest.mark.parametrize("learn", ["all", 4, "classifier", "affine"])
def test_living_buffers_share_no_byte(learn: device.Learn) -> None:
    torch.manual_seed(0)
    network = trained(resnet8())
    device.choose(network, learn)
    build = device.build(network, (1, 8, 8))
    for memory in (build.infer_memory, build.train_memory):
        _disjoint(memory)
        assert all(offset % ALIGNMENT == 0 for offset in memory.offsets.values())
        last = max(life.last for life in memory.lives.values())
        least = max(memory.live(step) for step in range(last + 1))
        assert least <= memory.size <= 1.1 * least


def test_fewer_layers_take_less_memory() -> None:
    torch.manual_seed(0)
    network = trained(resnet8())
    taken = []
    for learn in ("classifier", 4, 7, "all"):
        device.choose(network, learn)
        taken.append(device.build(network, (1, 8, 8)).ram)
    assert taken == sorted(taken)
    assert taken[0] < taken[-1] / 10


def test_a_frozen_part_is_kept_for_one_image_only() -> None:
    torch.manual_seed(0)
    network = trained(lenet())
    device.choose(network, "classifier")
    one, many = (
        device.build(network, (1, 8, 8), device.Options(batch=b)).train_memory.size for b in (1, 32)
    )
    assert many - one < 32 * aligned(24 + 3 * 4 * 10 + 10) + 1000


CASES: dict[str, tuple[Any, device.Learn, dict[str, Any]]] = {
    "everything": (resnet8, "all", {}),
    "one image": (resnet8, "all", {"batch": 1, "momentum": 0.0}),
    "last stage": (resnet8, 4, {"batch": 2}),
    "affine": (resnet8, "affine", {}),
    "classifier": (lenet, "classifier", {"batch": 1}),
    "separable": (dscnn, "all", {"batch": 4}),
    "uneven windows": (uneven, "all", {"momentum": 0.0}),
    "inference alone": (resnet8, "none", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_says_the_least_that_suffices(name: str) -> None:
    torch.manual_seed(0)
    model, learn, options = CASES[name]
    floats = model()
    floats(torch.zeros(2, 1, 8, 8))
    network = trained(floats)
    device.choose(network, learn)

    def plan(ram: int | None) -> device.Build:
        return device.build(network, (1, 8, 8), device.Options(**options, ram=ram))

    def needed(ram: int) -> int:
        with pytest.raises(ValueError, match=f"expected to fit {ram} bytes of RAM, needs") as found:
            plan(ram)
        return int(re.search(r"needs (\d+)", str(found.value))[1])

    least = needed(0)
    assert plan(least).ram == least
    assert needed(least - 1) == least
    assert least <= plan(None).ram
    _disjoint(plan(least).train_memory)
