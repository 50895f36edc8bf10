"""Blocks of layers that may learn or rest from step to step, and what each makes a step compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from l1bn.device.learning import layer_of
from l1bn.device.program.steps import EVERY, INPUT
from l1bn.fixed_point.update import to_units
from l1bn.quantized import IntegerNetwork
from l1bn.quantized.parameter import IntegerParameter

MOST = 32
"""Blocks of a network; with more layers that learn, neighbours share one."""


@dataclass(frozen=True)
class Blocks:
    """Which layers learn together. A set of blocks is a number: bit n is block n.

    Attributes:
        layers: Names of the layers of each block, the first layers first.
        own: Block of each node's layer as a set, empty where nothing of it learns.
        reach: Blocks of each node or of any before it: an error goes to a node for their sake.
        parameters: Block of each parameter that learns, as a set, by its id.
    """

    layers: Sequence[Sequence[str]]
    own: Sequence[int]
    reach: Sequence[int]
    parameters: dict[int, int]

    @classmethod
    def of(cls, network: IntegerNetwork) -> Blocks:
        """Return the blocks of a network whose layers learn as they do now."""
        count = len(network.nodes)
        found = [_learned(network, i) for i in range(count)]
        learning = [i for i in range(count) if found[i]]
        number = len(learning)
        place = {i: at if number <= MOST else at * MOST // number for at, i in enumerate(learning)}
        own = [1 << place[i] if i in place else 0 for i in range(count)]
        reach: list[int] = []
        for i, node in enumerate(network.nodes):
            before = [0 if s == INPUT else reach[s] for s in node.inputs]
            reach.append(own[i] | _union(before))
        names: list[list[str]] = [[] for _ in range(min(number, MOST))]
        for i, at in place.items():
            names[at].append(layer_of(network, i).name)
        parameters = {id(p): own[i] for i in learning for p in found[i]}
        return cls(names, own, reach, parameters)

    @property
    def all(self) -> int:
        """The set of all blocks."""
        return (1 << len(self.layers)) - 1

    def last(self, count: int) -> int:
        """Return the set of the last so many blocks."""
        return self.all & ~((1 << max(0, len(self.layers) - count)) - 1)

    def norms(self, network: IntegerNetwork) -> list[int]:
        """Return the sum of magnitudes of each block's gradients, as ``l1bn_train_measured`` does.

        Args:
            network: The network after a backward pass, before the optimizer's step.

        Returns:
            A number for each block, with 32 fraction bits; 0 where nothing of it learned.
        """
        found = [0] * len(self.layers)
        for parameter in network.integer_parameters():
            own, gradient = self.parameters.get(id(parameter), 0), parameter.gradient
            if own and parameter.trains and gradient is not None:
                values = to_units(gradient.values.cpu().numpy().astype("int64"), gradient.exponent)
                found[own.bit_length() - 1] += int(abs(values).sum())
        return found

    def largest(self, norms: Sequence[int], count: int) -> int:
        """Return the set of so many blocks with the largest norms; of equal ones the first."""
        order = sorted(range(len(self.layers)), key=lambda n: -norms[n])
        return sum(1 << n for n in order[:count])

    def limit(self, network: IntegerNetwork, chosen: int = EVERY) -> None:
        """Let only some blocks learn in Python, as ``l1bn_train_part`` does on a device.

        Args:
            network: The network that the blocks are of.
            chosen: The set; every block by default.
        """
        for parameter in network.integer_parameters():
            own = self.parameters.get(id(parameter), 0)
            if own:
                parameter.frozen = not own & chosen
        network.mark_needed_gradients()


def _union(sets: Sequence[int]) -> int:
    union = 0
    for one in sets:
        union |= one
    return union


def _learned(network: IntegerNetwork, node: int) -> list[IntegerParameter]:
    modules = layer_of(network, node).modules()
    return [m for m in modules if isinstance(m, IntegerParameter) and m.trains]
