"""Buffers whose lives overlap share no byte, and the arena is close to the least there can be."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from l1bn import device
from l1bn.device.program.memory import ALIGNMENT, Placement, aligned
from small_networks import lenet, resnet8, trained


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
