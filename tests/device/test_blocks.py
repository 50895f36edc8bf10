"""Which layers learn changes from step to step: what rests stays, and a step costs less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import l1bn
from l1bn import device, quantized
from l1bn.device.program.blocks import MOST, Blocks
from l1bn.device.program.steps import Buffer, Kind, Op
from l1bn.device.trial import comparison, run, targets
from small_networks import digits, odd, resnet8, take_step, trained

BATCH, RATE = 4, 0.05


def planned(model: nn.Module, learn: device.Learn, **options: Any) -> device.Build:
    network = trained(model)
    device.choose(network, learn)
    return device.build(network, (1, 8, 8), device.Options(batch=BATCH, **options))


def test_a_block_is_a_layer_with_what_learns_in_it() -> None:
    torch.manual_seed(0)
    blocks = planned(resnet8(4), 4).blocks
    assert [len(names) for names in blocks.layers] == [1] * 4
    assert blocks.layers[-1] == ["7"]
    assert (blocks.all, blocks.last(1), blocks.last(3), blocks.last(9)) == (15, 8, 14, 15)
    assert blocks.reach[-1] == 15
    assert planned(resnet8(4), "none").blocks.all == 0


def test_many_layers_share_blocks() -> None:
    layers = [layer for _ in range(39) for layer in (nn.Linear(8, 8), l1bn.L1BatchNorm1d(8))]
    network = quantized.prepare(nn.Sequential(*layers, nn.Linear(8, 4)))
    blocks = Blocks.of(network)
    assert len(blocks.layers) == MOST
    assert sum(map(len, blocks.layers)) == 40
    assert all(blocks.layers)
    assert [n for names in blocks.layers for n in names] == [x.name for x in network.layers]


@pytest.mark.parametrize(
    ("model", "learn", "options"),
    [
        (lambda: resnet8(4), "all", {}),
        (lambda: resnet8(4), "affine", {"momentum": 0.0}),
        (lambda: resnet8(4), 5, {"ram": 40_000}),
        (odd, "all", {"weight_decay": 1e-3}),
    ],
)
def test_blocks_in_turn_learn_what_they_learn_in_python(
    model: Any, learn: device.Learn, options: dict[str, Any], on_host: Any
) -> None:
    torch.manual_seed(0)
    build = planned(model(), learn, **options)
    blocks, network, given = build.blocks, build.network, build.options
    host = on_host(build)
    optimizer = quantized.SGD(network, RATE, given.momentum, given.weight_decay, given.nesterov)
    count = len(blocks.layers)
    sets = [*(1 << n for n in range(count)), blocks.last(1), blocks.last(2), blocks.all, 0b101]
    for step, chosen in enumerate(sets):
        before = {id(p): p.weight.clone() for p in build.layout.learned}
        blocks.limit(network, chosen)
        images, labels = digits(BATCH * step, BATCH)
        wanted = take_step(network, optimizer, images, labels)
        status, logits = host.train(images, labels.numpy(), RATE, chosen)
        assert status == 0
        np.testing.assert_array_equal(logits, wanted.numpy(), f"step {step}")
        assert host.state == build.layout.pack(), f"state after step {step}"
        moved = {k for k, p in before.items() if not torch.equal(p, _find(build, k).weight)}
        assert moved
        assert all(blocks.parameters[k] & chosen for k in moved)


@pytest.mark.parametrize(("model", "learn"), [(lambda: resnet8(4), "all"), (odd, "affine")])
def test_the_largest_gradients_choose_what_learns(model: Any, learn: Any, on_host: Any) -> None:
    torch.manual_seed(0)
    build = planned(model(), learn)
    blocks, network, host = build.blocks, build.network, on_host(build)
    optimizer = quantized.SGD(network, RATE, 0.9)
    wanted, norms, chosen = [0] * len(blocks.layers), np.zeros(32, np.int64), blocks.all
    seen = set()
    for step in range(12):
        blocks.limit(network, chosen)
        images, labels = digits(BATCH * step, BATCH)
        logits = network(images)
        network.backward(quantized.cross_entropy(network, logits, labels).error)
        now = blocks.norms(network)
        wanted = [n if chosen >> i & 1 else wanted[i] for i, n in enumerate(now)]
        optimizer.step()
        host.measure(images, labels.numpy(), RATE, chosen, norms)
        assert norms.tolist() == wanted + [0] * (32 - len(wanted))
        assert host.state == build.layout.pack(), f"state after step {step}"
        found = host.library.network_largest(norms.ctypes, 3)
        assert found == blocks.largest(wanted, 3)
        chosen = blocks.all if step % 4 == 3 else found  # now and then all are measured anew
        seen.add(found)
    assert min(wanted) > 0
    assert len(seen) > 1


def test_the_largest_of_few_blocks_are_all_of_them(on_host: Any) -> None:
    torch.manual_seed(0)
    library = on_host(planned(resnet8(4), 2)).library
    norms = np.array([5, 7, 7, 1, *[0] * 28], np.int64)
    of = [library.l1bn_largest(norms.ctypes, 0b1111, n) for n in range(6)]
    assert of == [0, 0b10, 0b110, 0b111, 0b1111, 0b1111]
    assert library.l1bn_largest(norms.ctypes, 0b1001, 1) == 1


def _find(build: device.Build, key: int) -> Any:
    return next(p for p in build.layout.learned if id(p) == key)


def test_a_step_computes_no_error_that_nobody_takes() -> None:
    torch.manual_seed(0)
    build = planned(resnet8(4), "all")
    for chosen in (*(1 << n for n in range(len(build.blocks.layers))), build.blocks.all):
        taken: set[int] = set()
        for op in reversed([op for op in build.train if op.blocks & chosen]):
            if op.kind < Kind.LOSS:
                break
            moves = op.kind is Kind.PRODUCT_UPDATE or (
                op.kind is Kind.NORM_ERROR and chosen >> op.value & 1
            )
            given = op.out or op.a
            assert moves or (given and id(given.buffer) in taken), (op.kind.name, op.layer, chosen)
            taken |= {id(t.buffer) for t in op.tensors().values()}
            if op.out and op.kind is not Kind.JOIN and op.out.buffer not in _read(op):
                taken.discard(id(op.out.buffer))


def _read(op: Op) -> list[Buffer | None]:
    return [t.buffer for t in (op.a, op.x) if t]


def test_no_known_block_is_refused(on_host: Any) -> None:
    torch.manual_seed(0)
    build = planned(resnet8(4), 2)
    host = on_host(build)
    images, labels = digits(0, BATCH)
    before = host.state
    for nothing in (0, 0b100, 1 << 31):
        assert host.train(images, labels.numpy(), RATE, nothing)[0] == 5  # L1BN_NO_TRAINING
    assert host.state == before
    assert host.train(images, labels.numpy(), RATE, 0xFFFFFFFF)[0] == 0


def test_fewer_blocks_take_fewer_instructions(tmp_path: Path) -> None:
    target = targets.TARGETS["cortex-m3"]
    if reason := target.missing():
        pytest.skip(reason)
    torch.manual_seed(0)
    build = planned(resnet8(4), "all")
    images, labels = digits(0, 4 * BATCH)
    sets = (build.blocks.all, build.blocks.last(3), build.blocks.last(1), 1)
    work = run.Work(images, labels, [RATE] * 4, 1, sets)
    outcome = run.run_trial(build, run.compile_trial(build, work, target, tmp_path), target)
    assert comparison.difference(build, work, outcome) is None
    assert all(p.trains for p in build.layout.learned)  # nothing rests afterwards
    every, three, last, first = outcome.steps
    assert every > first > three > last > 0
    with pytest.raises(ValueError, match="expected blocks for 2 steps, got 1"):
        run.Work(images, labels, [RATE] * 2, 1, [3]).learning()
