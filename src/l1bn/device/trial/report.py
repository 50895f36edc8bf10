"""What a network takes on a device, layer by layer: flash, RAM, products and instructions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from l1bn import tools
from l1bn.device.program.build import Build
from l1bn.device.program.forward import FOLDED_BYTES
from l1bn.device.program.steps import Kind, Mode, Op
from l1bn.device.trial.run import Work
from l1bn.device.trial.targets import Target


@dataclass(frozen=True)
class Row:
    """Figures of one layer.

    Attributes:
        layer: Its name.
        flash: Weights, first masters and constants [bytes].
        state: What it changes while it learns: masters, momentum, running statistics [bytes].
        kept: What its forward pass keeps for the backward pass of a batch [bytes].
        infer_macs: 8-bit products of one inference.
        train_macs: 8-bit products of a training step.
        infer_instructions: Instructions of one inference; 0 where unknown.
        train_instructions: Instructions of a training step; 0 where unknown.
    """

    layer: str
    flash: int
    state: int
    kept: int
    infer_macs: int
    train_macs: int
    infer_instructions: int = 0
    train_instructions: int = 0


def rows(build: Build, instructions: Mapping[str, tuple[int, int, int]] | None = None) -> list[Row]:
    """Return the figures of every layer.

    Args:
        build: The network.
        instructions: What a trial counted, or None.
    """
    found = []
    kept = _kept(build)
    for name in build.layers:
        forward, backward, infer = (instructions or {}).get(name, (0, 0, 0))
        flash, state = _bytes(build, name)
        once = _macs(build.frozen, name)
        found.append(
            Row(
                layer=name,
                flash=flash,
                state=state,
                kept=kept.get(name, 0),
                infer_macs=once + _macs(build.infer, name),
                train_macs=build.options.batch * once + _macs(build.train, name),
                infer_instructions=infer,
                train_instructions=forward + backward,
            )
        )
    return found


def _macs(ops: object, name: str) -> int:
    assert isinstance(ops, (list, tuple))
    return sum(op.macs for op in ops if op.layer == name)


def _first(build: Build, name: str) -> Op | None:
    """Return the forward step of a layer, which names all of its parameters."""
    return next((op for op in (*build.frozen, *build.infer) if op.layer == name), None)


def _bytes(build: Build, name: str) -> tuple[int, int]:
    """Return flash and state of a layer."""
    op = _first(build, name)
    if op is None:
        return 0, 0
    count = len(build.tables.parameters)
    numbers = [n for n in (op.weight, op.bias) if n < count]
    flash = state = 0
    if op.kind is Kind.NORM:
        layer = build.tables.norms[op.norm]
        channels = layer.norm.running_mean.numel()
        numbers += [build.tables.parameter(p) for p in (layer.norm.gamma, layer.norm.beta)]
        statistics = 3 * 4 * channels + 4
        flash += FOLDED_BYTES * channels if op.mode is Mode.FOLDED else statistics
        state += 0 if op.mode is Mode.FOLDED else statistics
    for number in numbers:
        parameter = build.tables.parameters[number]
        values = parameter.weight.numel()
        if not parameter.trains:
            flash += values * (1 if number == op.weight else 2)
            continue
        flash += 2 * values
        state += 2 * values * (2 if id(parameter) in build.layout.momenta else 1)
    return flash, state


def _kept(build: Build) -> dict[str, int]:
    """Return what the forward pass of each layer leaves to the backward pass."""
    ops = [*build.frozen, *build.train]
    loss = next((i for i, op in enumerate(ops) if op.kind is Kind.LOSS), len(ops))
    lives = build.train_memory.lives
    found: dict[str, int] = {}
    seen: set[int] = set()
    for op in ops[:loss]:
        for buffer in op.buffers():
            if id(buffer) in seen or lives[buffer].last <= loss:
                continue
            seen.add(id(buffer))
            size = buffer.size * lives[buffer].copies
            found[op.layer] = found.get(op.layer, 0) + size
    return found


def flash_bytes(target: Target, program: Path, work: Work) -> int | None:
    """Return code and constants of a linked program, less the trial's images.

    Returns:
        Bytes, or None where the target is no device.

    Raises:
        ToolError: If the target's tools are missing or fail.
    """
    if target.binutils is None:
        return None
    output = tools.run([f"{target.binutils}size", str(program)]).output
    text, data = (int(n) for n in output.splitlines()[1].split()[:2])
    steps = 4 + 4 + 1  # rate, blocks and largest of each
    images = work.images.values.numel() + 2 * len(work.labels) + steps * len(work.rates)
    return text + data - images
