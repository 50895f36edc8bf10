"""What each choice of learning layers costs, counted on devices that choose as Python does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from l1bn import device
from l1bn.device.trial import choices, comparison, plans, run, targets
from small_networks import digits, resnet8, trained

BATCH, RATE = 4, 0.05


def planned(learn: device.Learn) -> tuple[device.Build, run.Work]:
    torch.manual_seed(0)
    network = trained(resnet8(4))
    device.choose(network, learn)
    build = device.build(network, (1, 8, 8), device.Options(batch=BATCH))
    images, labels = digits(0, 200)
    return build, run.Work(images, labels, [RATE])


def needs(name: str) -> targets.Target:
    if reason := targets.TARGETS[name].missing():
        pytest.skip(reason)
    return targets.TARGETS[name]


@pytest.fixture(scope="module")
def counted() -> tuple[device.Build, choices.Measured, list[choices.Choice], bytes]:
    """The choices of a network on a Cortex-M4, and its state before."""
    target = needs("cortex-m4")
    build, work = planned(4)
    before = build.layout.pack()
    found = choices.measure(build, choices.with_rounds(build, work, choices.Policy(2, 5)), target)
    return build, found, choices.block_choices(build, "4", found), before


def test_every_choice_is_counted(counted: Any) -> None:
    build, found, rows, before = counted
    whole = choices.whole_choice(build, "4", found)
    assert [(row.way, row.count, row.steps) for row in (whole, *rows)] == [
        *(("all", 4, 1), ("last", 1, 1), ("last", 2, 1), ("last", 3, 1)),
        *(("in turn", 1, 4), ("largest", 2, 5)),
    ]
    for row in (whole, *rows):
        assert 0 < row.macs <= row.worst_macs
        assert row.macs < row.instructions <= row.worst_instructions < whole.instructions * 1.1
        assert row.instructions < row.plain_instructions <= row.plain_worst_instructions
        assert (row.flash, row.stack) == (whole.flash, whole.stack)
        assert row.ram == build.ram + (256 if row.way == "largest" else 0)
    last, turn, largest = rows[0], rows[-2], rows[-1]
    assert last.instructions < turn.instructions < turn.worst_instructions < whole.instructions
    assert turn.instructions == round(sum(found.outcome.steps[1:5]) / 4)
    # The first step of a round is of all blocks, and pays for the measuring.
    assert largest.worst_instructions == found.outcome.steps[-5] > whole.instructions
    assert build.layout.pack() == before
    assert all(layer.training for layer in build.network.layers[-4:])


def test_the_device_chooses_what_python_chooses(counted: Any) -> None:
    build, found, _, _ = counted
    rounds = found.outcome.chosen[-5:]
    assert rounds[0] == build.blocks.all
    assert [chosen.bit_count() for chosen in rounds[1:]] == [2] * 4


def test_another_choice_is_noticed() -> None:
    target = needs("host")
    build, work = planned(3)
    steps = choices.with_rounds(build, work, choices.Policy(1, 3))
    found = choices.measure(build, steps, target)
    assert found.outcome.chosen[-1] in (1, 2, 4)
    other = [*found.outcome.chosen[:-1], found.outcome.chosen[-1] ^ build.blocks.all]
    claimed = dataclasses.replace(found.outcome, chosen=other)
    assert comparison.difference(build, steps, claimed) == "which layers learn"


def test_depths_are_planned_and_run_each_for_itself() -> None:
    target = needs("cortex-m3")
    build, work = planned("all")
    depths: list[device.Learn] = ["classifier", "none", 3, "all", 99]
    *rows, refused = choices.depth_choices(build, depths, work, target)
    assert [row.learn for row in rows] == ["classifier", "3", "all"]
    assert "expected at most" in refused.refused
    for column in ("ram", "flash", "macs", "instructions"):
        values = [getattr(row, column) for row in rows]
        assert all(values)
        if column != "flash":
            assert values == sorted(values)
            assert len(set(values)) == 3
    assert [row.plain_instructions for row in rows] == [0] * 3  # a Cortex-M3 has no vectors
    device.choose(build.network, "all")
    again = plans.plans(build, ["classifier"], [BATCH])[0]
    assert (again.ram, again.macs) == (rows[0].ram, rows[0].macs)


def test_a_policy_takes_at_least_one_block_and_step() -> None:
    assert choices.Policy(9, 3).largest(4) == [4, 4, 4]
    assert choices.Policy().largest(4) == [4, *[1] * 7]
    for wrong in ((0, 8), (1, 0)):
        with pytest.raises(ValueError, match="expected at least 1 block by its gradients"):
            choices.Policy(*wrong)
    build, work = planned("classifier")
    with pytest.raises(ValueError, match="expected numbers of largest blocks for 1 steps, got 2"):
        dataclasses.replace(work, largest=[1, 1]).measuring()
    assert choices.with_rounds(build, work, choices.Policy(1, 2)).largest == [0, 0, 0, 1, 1]
