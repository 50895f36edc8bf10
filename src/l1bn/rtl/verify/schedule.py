"""What is fed to a unit, command by command, and what must come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.ports import Operation, Phase
from l1bn.rtl.verify.stimulus import Channels, Expected

Element = dict[str, int]


@dataclass
class Step:
    """One command.

    A field that an element or a command does not name is not used there: a bench may send anything.

    Attributes:
        operation: What to do.
        channel: Channel whose scalars the step computes.
        command: Fields beside the operation.
        elements: What to feed, and the phase in which the unit must ask for it.
        emits: Channel whose results come out, or None.
        results: Fields of each result.
        scalars: dγ and dβ when the command is taken, or None.
        saves: Channel whose context is on ``snapshot`` when the command is taken, or None.
        loads: Channel whose context must be on ``restore`` during the command, or None.
        counted: Part of the steady state, over which clocks and energy are counted.
    """

    operation: Operation
    channel: int
    command: Element = field(default_factory=dict)
    elements: list[tuple[Phase, Element]] = field(default_factory=list)
    emits: int | None = None
    results: list[Element] = field(default_factory=list)
    scalars: tuple[int, int] | None = None
    saves: int | None = None
    loads: int | None = None
    counted: bool = True

    def moved(self, by: int) -> Step:
        """The same step of a layer before which there are so many channels."""
        emits, saves, loads = (
            None if i is None else i + by for i in (self.emits, self.saves, self.loads)
        )
        return replace(self, channel=self.channel + by, emits=emits, saves=saves, loads=loads)


class Scheduler:
    """Writes the steps of some channels for a unit.

    Args:
        config: The unit.
        channels: What to feed.
        judged: What the integer model says.
    """

    def __init__(self, config: UnitConfig, channels: Channels, judged: Sequence[Expected]) -> None:
        self.config, self.channels, self.judged = config, channels, judged
        self.x, self.g = channels.x.tolist(), channels.g.tolist()

    def __len__(self) -> int:
        return len(self.judged)

    @property
    def elements(self) -> int:
        """Elements of each channel."""
        return len(self.x[0])

    def count(self) -> list[Step]:
        """The command that sets N, where the unit has it."""
        if not self.config.counted:
            return []
        return [Step(Operation.COUNT, -1, {"count": self.elements}, counted=False)]

    def one_by_one(self) -> list[Step]:
        """Forward and backward of each channel in turn."""
        pairs = [(self._forward(i), self._backward(i)) for i in range(len(self))]
        return [step for pair in pairs for step in pair]

    def restored(self) -> list[Step]:
        """All channels forward, then all backward, last first, each from its restored context."""
        steps = [self._forward(i) for i in range(len(self))]
        for i in reversed(range(len(self))):
            steps += [self._restore(i), self._backward(i)]
        return steps

    def overlapped(self, *, steady: bool = False) -> list[Step]:
        """All channels forward, then all backward, in steps of several channels each.

        Args:
            steady: Lanes that would run empty at the end of the layer start over with the first
                channels, and the steps that fill the pipeline are not counted: what a layer of
                many channels costs.
        """
        count = len(self)
        depth = 2 if self.config.norm == "l1" else 1
        steps = []
        for t in range(count + depth):
            lanes = [self._lane(t - back, steady) for back in range(depth + 1)]
            step = self._overlapped_forward(lanes, fill=t < depth)
            step.counted = not steady or t >= depth
            steps.append(step)
        if not self.config.overlaps_gradient:
            for i in range(count):
                steps += [self._restore(i), self._backward(i)]
            return steps
        for t in range(count + 1):
            step = self._overlapped_backward(self._lane(t, steady), self._lane(t - 1, steady))
            step.counted = not steady or t >= 1
            steps.append(step)
        return steps

    def _lane(self, channel: int, wrap: bool) -> int | None:
        if channel < 0:
            return None
        if channel < len(self):
            return channel
        return channel % len(self) if wrap else None

    def _scalars(self, i: int | None) -> Element:
        if i is None:
            return {}
        fields = {"gamma": int(self.channels.gamma[i]), "beta": int(self.channels.beta[i])}
        if self.config.norm == "l1" and self.config.passes == 1:
            fields["guess"] = int(self.channels.guess[i])
        return fields

    def _pass(self, phase: Phase, **lanes: list[int] | None) -> list[tuple[Phase, Element]]:
        """One pass over N elements; a lane without data is left out."""
        live = {name: values for name, values in lanes.items() if values is not None}
        return [
            (phase, {name: values[j] for name, values in live.items()})
            for j in range(self.elements)
        ]

    def _results(self, values: list[int], bits: list[int] | None) -> list[Element]:
        last = self.elements - 1
        results = [{"value": v, "last": int(j == last)} for j, v in enumerate(values)]
        if bits is not None and self.config.norm == "l1":
            for result, bit in zip(results, bits, strict=True):
                result["above"] = bit
        return results

    def _forward(self, i: int) -> Step:
        one_pass, want = self.config.passes == 1, self.judged[i]
        phases = [Phase.STATISTICS]
        if not one_pass or want.second_pass:
            phases.append(Phase.DEVIATION)
        phases.append(Phase.NORMALIZE)
        elements = [e for phase in phases for e in self._pass(phase, x=self.x[i])]
        return Step(
            Operation.FORWARD, i, self._scalars(i), elements, emits=i,
            results=self._results(want.y, want.bits), saves=i,
        )  # fmt: skip

    def _restore(self, i: int) -> Step:
        return Step(Operation.RESTORE, i, loads=i)

    def _backward(self, i: int) -> Step:
        want, l1 = self.judged[i], self.config.norm == "l1"
        x, g = self.x[i], self.g[i]
        elements = self._pass(Phase.REDUCE, x=x, g=g)
        # L1's dx needs the bit alone.
        elements += self._pass(
            Phase.GRADIENT, g=g, x=None if l1 else x, above=want.bits if l1 else None
        )
        return Step(
            Operation.BACKWARD, i, elements=elements, emits=i,
            results=self._results(want.dx, want.bits), scalars=(want.dgamma, want.dbeta),
        )  # fmt: skip

    def _overlapped_forward(self, lanes: list[int | None], *, fill: bool) -> Step:
        """``lanes`` are channels, the latest first."""
        ahead, following = lanes[0], lanes[1]
        data = [None if i is None else self.x[i] for i in lanes]
        emits = None if fill else lanes[-1]
        want = None if emits is None else self.judged[emits]
        if self.config.norm == "l1":
            done = following
            elements = self._pass(Phase.NORMALIZE, x_ahead=data[0], x_next=data[1], x=data[2])
        elif self.config.side:
            done = ahead
            elements = self._pass(Phase.NORMALIZE, x_next=data[0], x=data[1])
        else:
            done = following
            elements = self._pass(Phase.DEVIATION, x_ahead=data[0], x=data[1])
            if not fill:
                elements += self._pass(Phase.NORMALIZE, x=data[1])
        return Step(
            Operation.FORWARD, -1 if done is None else done,
            {**self._scalars(done), "fill": int(fill)}, elements, emits=emits,
            results=[] if want is None else self._results(want.y, want.bits), saves=done,
        )  # fmt: skip

    def _overlapped_backward(self, following: int | None, i: int | None) -> Step:
        want = None if i is None else self.judged[i]
        leads = None if following is None else self.judged[following]
        elements = self._pass(
            Phase.GRADIENT,
            x_next=None if following is None else self.x[following],
            g_next=None if following is None else self.g[following],
            g=None if i is None else self.g[i],
            above=None if want is None else want.bits,
        )
        return Step(
            Operation.BACKWARD, -1 if following is None else following,
            {"fill": int(want is None)}, elements, emits=i,
            results=[] if want is None else self._results(want.dx, want.bits),
            scalars=None if leads is None else (leads.dgamma, leads.dbeta), loads=following,
        )  # fmt: skip
