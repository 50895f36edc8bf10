"""What each choice of learning layers costs: depths, one block in turn, the largest gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from l1bn.device.learning import Learn, choose
from l1bn.device.program.blocks import MOST
from l1bn.device.program.build import Build, build
from l1bn.device.trial.comparison import difference
from l1bn.device.trial.plans import block_sets, step_macs
from l1bn.device.trial.report import flash_bytes
from l1bn.device.trial.run import Outcome, Work, compile_trial, run_trial
from l1bn.device.trial.targets import PLAIN, Target

NORM_BYTES = 8 * MOST
"""Sums of magnitudes that the caller of ``l1bn_train_measured`` keeps [bytes]."""


@dataclass(frozen=True)
class Choice:
    """What a step takes under one way to choose what learns.

    Of a choice that changes from step to step, ``macs`` and ``instructions`` are the mean of its
    steps, and ``worst_…`` those of the most expensive one.

    Attributes:
        learn: Which layers may learn, as ``l1bn.device.choose`` takes it.
        way: "all" of them in each step, the "last" so many blocks, one block "in turn", or the
            "largest" so many by their gradients.
        count: Blocks that learn in a step; of "largest", after the step that measures all.
        steps: Steps that the means are of.
        ram: Arena, state, exponents, and magnitudes where they are kept [bytes].
        flash: Code and constants, the trial's driver included, its images not [bytes]; 0 where
            unknown.
        stack: Bytes of stack; 0 where unknown.
        macs: 8-bit products of a step.
        worst_macs: The same of the worst step.
        instructions: Instructions of a step, by the processor's own vectors; 0 where unknown.
        worst_instructions: The same of the worst step.
        plain_instructions: By plain C; 0 where unknown, or the processor has no vectors.
        plain_worst_instructions: The same of the worst step.
        refused: Why it cannot be built; empty where it can.
    """

    learn: str
    way: str
    count: int = 0
    steps: int = 0
    ram: int = 0
    flash: int = 0
    stack: int = 0
    macs: int = 0
    worst_macs: int = 0
    instructions: int = 0
    worst_instructions: int = 0
    plain_instructions: int = 0
    plain_worst_instructions: int = 0
    refused: str = ""


@dataclass(frozen=True)
class Policy:
    """How blocks are chosen by their gradients.

    Attributes:
        count: Blocks that learn in a step.
        every: Steps of a round: in the first of them all blocks learn and are measured.

    Raises:
        ValueError: If either is below 1.
    """

    count: int = 1
    every: int = 8

    def __post_init__(self) -> None:
        if min(self.count, self.every) < 1:
            raise ValueError(
                "expected at least 1 block by its gradients and rounds of at least 1 step, got "
                f"{self.count} and {self.every}"
            )

    def largest(self, blocks: int) -> list[int]:
        """Return how many blocks each step of a round takes, of so many."""
        return [blocks, *[min(self.count, blocks)] * (self.every - 1)]


@dataclass(frozen=True)
class Measured:
    """What one program did, and what it takes.

    Attributes:
        outcome: What the target did; by its own vectors.
        plain: Instructions of each step by plain C; zeros where unknown.
        flash: See ``Choice``.
    """

    outcome: Outcome
    plain: Sequence[int]
    flash: int


def measure(one: Build, work: Work, target: Target) -> Measured:
    """Let a target do some work, by its vectors and without, each equal to Python.

    Raises:
        RuntimeError: If an integer is not Python's.
        ToolError: If a tool is missing or fails.
    """
    outcome, flash = _trial(one, work, target, ())
    plain: Sequence[int] = [0] * len(work.rates)
    if target.vectors:
        plain = _trial(one, work, target, PLAIN)[0].steps
    return Measured(outcome, plain, flash)


def _trial(one: Build, work: Work, target: Target, flags: Sequence[str]) -> tuple[Outcome, int]:
    with TemporaryDirectory() as folder, _same_network(one):
        program = compile_trial(one, work, target, Path(folder), flags)
        outcome = run_trial(one, program, target)
        if found := difference(one, work, outcome):
            raise RuntimeError(
                f"{target.compiler} and Python disagree about {found}; please report this network"
            )
        return outcome, flash_bytes(target, program, work) or 0


@contextmanager
def _same_network(one: Build) -> Iterator[None]:
    """Give a network back what it had learned before; Python trains it, too."""
    before, modes = one.layout.pack(), [(m, m.training) for m in one.network.modules()]
    try:
        yield
    finally:
        one.layout.unpack(before)
        for module, training in modes:
            module.training = training


def depth_choices(like: Build, depths: Sequence[Learn], work: Work, target: Target) -> list[Choice]:
    """Return what a step takes for each depth of learning, each planned and run for itself.

    Which layers learn is another choice afterwards: call ``l1bn.device.choose`` again.

    Args:
        like: The network, and the options that all share.
        depths: Which layers learn; ``"none"`` takes no step and is left out.
        work: Images of at least one step; its first rate serves.
        target: What runs them.

    Raises:
        RuntimeError: If an integer is not Python's.
        ToolError: If a tool is missing or fails.
    """
    return [_depth(like, learn, work, target) for learn in depths if learn != "none"]


def _depth(like: Build, learn: Learn, work: Work, target: Target) -> Choice:
    try:
        choose(like.network, learn)
        one = build(like.network, like.shape, like.options)
    except ValueError as error:
        return Choice(str(learn), "all", refused=str(error))
    first = replace(work, rates=work.rates[:1], blocks=(), largest=())
    return whole_choice(one, str(learn), measure(one, first, target))


def whole_choice(one: Build, learn: str, found: Measured) -> Choice:
    """Return what the first step of a trial takes, in which all that may learn does."""
    return _of(one, learn, "all", found, range(1), len(one.blocks.layers))


def with_rounds(one: Build, work: Work, policy: Policy) -> Work:
    """Return the steps of a report: all, each block alone, each and all after it, and a round.

    Args:
        one: The network.
        work: Images of as many steps, and a rate.
        policy: How many blocks are chosen by their gradients.
    """
    sets, largest = block_sets(one), policy.largest(len(one.blocks.layers))
    return replace(
        work,
        rates=list(work.rates[:1]) * (len(sets) + len(largest)),
        blocks=[*sets, *[one.blocks.all] * len(largest)],
        largest=[*[0] * len(sets), *largest],
    )


def block_choices(one: Build, learn: str, found: Measured) -> list[Choice]:
    """Return what a step takes in which some of the layers that may learn rest.

    Args:
        one: The network.
        learn: Which layers may learn, to name them.
        found: What a target made of the work of ``with_rounds``.
    """
    count = len(one.blocks.layers)
    first = 1 + 2 * count
    rounds = range(first, len(found.outcome.steps))
    lasts = [
        _of(one, learn, "last", found, range(count + n, count + n + 1), n) for n in range(1, count)
    ]
    turn = _of(one, learn, "in turn", found, range(1, 1 + count), 1)
    chosen = found.outcome.chosen[rounds[-1]].bit_count()
    largest = _of(one, learn, "largest", found, rounds, chosen)
    return [*lasts, turn, replace(largest, ram=largest.ram + NORM_BYTES)]


def _of(one: Build, learn: str, way: str, found: Measured, steps: range, count: int) -> Choice:
    """Return the figures of some steps of a trial."""
    outcome = found.outcome
    macs = [step_macs(one, outcome.chosen[n]) for n in steps]
    own = [outcome.steps[n] for n in steps]
    plain = [found.plain[n] for n in steps]
    return Choice(
        learn=learn,
        way=way,
        count=count,
        steps=len(steps),
        ram=one.ram,
        flash=found.flash,
        stack=outcome.stack,
        macs=_mean(macs),
        worst_macs=max(macs),
        instructions=_mean(own),
        worst_instructions=max(own),
        plain_instructions=_mean(plain),
        plain_worst_instructions=max(plain),
    )


def _mean(values: Sequence[int]) -> int:
    return round(sum(values) / len(values))
