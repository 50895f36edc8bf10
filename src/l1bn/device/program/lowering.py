"""What lowering a network to steps shares: its numbered parts, tensors and steps so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from l1bn.device.learning import layer_of
from l1bn.device.program.steps import INPUT, NONE, Buffer, Kind, Op, Tensor, Window
from l1bn.quantized import IntegerNetwork
from l1bn.quantized.layers import IntegerLayer, NormLayer, ProductNormLayer
from l1bn.quantized.parameter import IntegerParameter


@dataclass
class Tables:
    """What steps refer to by number.

    Attributes:
        parameters: Weights, biases, γ and β, numbered as the network numbers them.
        norms: Layers with a norm.
        scales: Place of each output's exponent among the numbers of the state, by its id.
    """

    parameters: list[IntegerParameter]
    norms: list[NormLayer | ProductNormLayer]
    scales: dict[int, int]

    def parameter(self, parameter: IntegerParameter | None) -> int:
        """Return the number of a parameter."""
        if parameter is None:
            return NONE
        return next(i for i, p in enumerate(self.parameters) if p is parameter)

    def norm(self, layer: IntegerLayer) -> int:
        """Return the number of a layer's norm."""
        return next(i for i, n in enumerate(self.norms) if n is layer)


@dataclass
class Lowering:
    """Makes the steps of a range of nodes.

    Attributes:
        network: The network.
        tables: Its numbered parts.
        shapes: Shape of each node's output for this many images.
        shape: Shape of the images.
        values: Tensor of each node's output; of −1, the images.
        training: Whether a backward pass follows.
        ops: The steps so far.
    """

    network: IntegerNetwork
    tables: Tables
    shapes: Sequence[torch.Size]
    shape: torch.Size
    values: dict[int, Tensor]
    training: bool = False
    ops: list[Op] = field(default_factory=list)
    made: dict[int, Op] = field(default_factory=dict)

    def layer(self, index: int) -> IntegerLayer:
        """Return the layer of a node."""
        return layer_of(self.network, index)

    def shape_of(self, index: int) -> torch.Size:
        """Return the shape of a node's output; of −1, that of the images."""
        return self.shape if index == INPUT else self.shapes[index]

    def shapes_of(self, index: int) -> tuple[torch.Size, torch.Size]:
        """Return the shapes of a node's first input and of its output."""
        return self.shape_of(self.network.nodes[index].inputs[0]), self.shape_of(index)

    def tensor(self, shape: torch.Size, size: int = 1) -> Tensor:
        """Return a new tensor of ``size`` bytes a number."""
        return raw(shape.numel() * size, shape[1:].numel() * size)

    def source(self, index: int, place: int = 0) -> Tensor:
        """Return an input of a node."""
        return self.values[self.network.nodes[index].inputs[place]]

    def add(self, index: int, kind: Kind, window: Window, **fields: object) -> Op:
        """Add a step whose output is the node's."""
        layer = self.layer(index)
        op = Op(kind, layer.name, window, site=layer.site, **fields)  # type: ignore[arg-type]
        self.ops.append(op)
        self.made[index] = op
        if op.out is not None:
            self.values[index] = op.out
        return op

    def learns(self, index: int) -> bool:
        """Whether a backward pass goes through a node."""
        return self.training and self.layer(index).learns


def raw(size: int, image: int = 0) -> Tensor:
    """Return a new tensor of some bytes."""
    return Tensor(Buffer(size), image)


def scratch_of(parameter: IntegerParameter) -> Tensor | None:
    """Return room for the 8-bit weights of a parameter that learns."""
    return raw(parameter.weight.numel()) if parameter.trains else None


def keeps_order(shape: torch.Size) -> bool:
    """Whether channels first and channels last are the same order."""
    return len(shape) == 2 or shape[1] == 1 or math.prod(shape[2:]) == 1
