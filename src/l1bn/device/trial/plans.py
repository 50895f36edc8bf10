"""What else a network could take: other depths of learning, other batches, fewer layers a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from l1bn.device.learning import Learn, choose
from l1bn.device.program.build import Build, build


@dataclass(frozen=True)
class Plan:
    """What a network takes if some of it learns, in batches of some size.

    Attributes:
        learn: Which layers learn, as ``l1bn.device.choose`` takes it.
        batch: Images of a step.
        arena: Activations and errors [bytes]; 0 where it cannot be built.
        state: What learns [bytes].
        ram: Both, and exponents [bytes].
        macs: 8-bit products of a step.
        refused: Why it cannot be built; empty where it can.
    """

    learn: str
    batch: int
    arena: int = 0
    state: int = 0
    ram: int = 0
    macs: int = 0
    refused: str = ""


def plans(like: Build, depths: Sequence[Learn], batches: Sequence[int]) -> list[Plan]:
    """Return what each depth of learning takes with each batch.

    The layers of the network that learn are another choice afterwards: call
    ``l1bn.device.choose`` again.

    Args:
        like: The network, and the options that all share.
        depths: Which layers learn.
        batches: Images of a step.
    """
    return [_plan(like, learn, batch) for learn in depths for batch in batches]


def _plan(like: Build, learn: Learn, batch: int) -> Plan:
    try:
        options = replace(like.options, batch=batch, ram=None)
        choose(like.network, learn)
        one = build(like.network, like.shape, options)
    except ValueError as error:
        return Plan(str(learn), batch, refused=str(error))
    macs = step_macs(one, one.blocks.all)
    return Plan(str(learn), batch, one.arena, one.layout.size, one.ram, macs)


def step_macs(one: Build, blocks: int) -> int:
    """Return the 8-bit products of a training step in which some blocks learn."""
    frozen = one.options.batch * sum(op.macs for op in one.frozen)
    return frozen + sum(op.macs for op in one.train if op.blocks & blocks)


@dataclass(frozen=True)
class Part:
    """What a step takes in which one block of layers learns, or it and all after it.

    Attributes:
        layers: Names of the layers.
        alone: 8-bit products where it learns alone.
        onward: 8-bit products where all after it learn too.
        alone_instructions: The same as instructions; 0 where unknown.
        onward_instructions: The same as instructions; 0 where unknown.
    """

    layers: str
    alone: int
    onward: int
    alone_instructions: int = 0
    onward_instructions: int = 0


def block_sets(one: Build) -> list[int]:
    """Return the sets whose steps a report measures: all, each alone, each and all after it."""
    blocks = one.blocks
    count = len(blocks.layers)
    return [blocks.all, *(1 << n for n in range(count)), *map(blocks.last, range(1, count + 1))]


def parts(one: Build, instructions: Sequence[int] = ()) -> list[Part]:
    """Return what each block takes.

    Args:
        one: The network.
        instructions: Of a step of each of ``block_sets``; empty where unknown.
    """
    blocks = one.blocks
    count = len(blocks.layers)
    numbers = list(instructions) or [0] * (1 + 2 * count)
    return [
        Part(
            layers=" ".join(names),
            alone=step_macs(one, 1 << n),
            onward=step_macs(one, blocks.last(count - n)),
            alone_instructions=numbers[1 + n],
            onward_instructions=numbers[1 + 2 * count - 1 - n],
        )
        for n, names in enumerate(blocks.layers)
    ]
