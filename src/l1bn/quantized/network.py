"""A network of integer layers: forward in order, backward in reverse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from l1bn.quantized.config import Config
from l1bn.quantized.layers.base import Clock, IntegerLayer
from l1bn.quantized.layers.norm import NormalizingLayer
from l1bn.quantized.layers.product import ProductLayer
from l1bn.quantized.parameter import IntegerParameter
from l1bn.quantized.state import check_state
from l1bn.quantized.tensor import QTensor

_JOIN_SITE = 1 << 10
_INPUT = -1


@dataclass(frozen=True)
class Node:
    """A layer and where its inputs come from.

    Attributes:
        layer: Index of the layer.
        inputs: Indices of the nodes whose outputs it takes; −1 is the network's input.
    """

    layer: int
    inputs: tuple[int, ...]


class ExtraState(TypedDict):
    """What a state dict holds beside tensors."""

    step: int
    config: dict[str, object]


class IntegerNetwork(nn.Module):
    """Made by ``l1bn.quantized.prepare``; every parameter and buffer holds integers.

    Call it with a ``QTensor`` of int8 images; it returns int32 logits. ``backward`` takes the error
    that ``cross_entropy`` gives; ``SGD`` moves the weights.

    Args:
        layers: The layers, in an order in which inputs come first.
        nodes: Where each takes its inputs.
        clock: What the layers share.
    """

    def __init__(self, layers: list[IntegerLayer], nodes: list[Node], clock: Clock) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.nodes = nodes
        self.clock = clock
        self._checked: tuple[torch.Size, bool] | None = None
        self._lines = False
        self._trained: list[bool] | None = None
        self.mark_needed_gradients()

    @property
    def config(self) -> Config:
        """The configuration it was prepared with."""
        return self.clock.config

    def mark_needed_gradients(self) -> None:
        """Errors flow back only to layers that have, or follow, something that trains."""
        trained = [p.trains for p in self.integer_parameters()]
        if trained == self._trained:
            return
        self._trained, self._checked = trained, None
        needed: list[bool] = []
        for node in self.nodes:
            layer = self._layer(node)
            layer.needs_input_gradient = any(i != _INPUT and needed[i] for i in node.inputs)
            trains = any(isinstance(m, IntegerParameter) and m.trains for m in layer.modules())
            layer.learns = layer.needs_input_gradient or trains
            needed.append(layer.learns)

    def _layer(self, node: Node) -> IntegerLayer:
        layer = self.layers[node.layer]
        assert isinstance(layer, IntegerLayer)
        return layer

    def forward(self, images: QTensor) -> QTensor:
        """Return the output of the last node.

        Raises:
            TypeError: If the images are not int8.
            ValueError: If a batch of this size cannot be computed: a layer's input does not fit, or
                sums could overflow.
        """
        if not isinstance(images, QTensor) or images.values.dtype != torch.int8:
            raise TypeError(
                f"expected a QTensor of int8 images, got {_describe(images)}; quantize them first, "
                "for example with l1bn.quantized.quantize"
            )
        self.mark_needed_gradients()
        lines = images.values.dim() == 3
        images = as_images(images)
        if self._checked != (images.shape, self.training):
            self.check(images.shape)
        outputs: list[QTensor] = []
        for node in self.nodes:
            inputs = [images if i == _INPUT else outputs[i] for i in node.inputs]
            layer = self._layer(node)
            outputs.append(layer(*inputs))
            if not layer.learns:
                layer.forget()
        out = outputs[-1]
        self._lines = lines and out.values.dim() == 4
        return QTensor(out.values[:, :, 0], out.exponent) if self._lines else out

    def check(self, shape: torch.Size) -> None:
        """Refuse a batch that cannot be computed, before any layer has changed.

        In training mode the backward pass must be able to follow.

        Args:
            shape: (N, C, H, W) of the images, or (N, C, L) of lines.

        Raises:
            ValueError: It names the layer and the largest batch that fits.
        """
        if len(shape) == 0 or shape[0] == 0:
            raise ValueError(
                f"expected at least one image, got shape {tuple(shape)}; leave empty batches out"
            )
        if len(shape) == 3:
            shape = torch.Size((*shape[:2], 1, shape[2]))
        shapes: list[torch.Size] = []
        for node in self.nodes:
            inputs = [shape if i == _INPUT else shapes[i] for i in node.inputs]
            shapes.append(self._layer(node).check(*inputs))
        self._checked = (shape, self.training)

    def backward(self, error: QTensor) -> None:
        """Add to every parameter's gradient what this batch says.

        As in PyTorch, gradients of several backward passes add up until the optimizer steps. To
        take the mean of 2**k batches, subtract k from the error's exponent.

        Args:
            error: Gradient in the output.

        Raises:
            RuntimeError: If there was no forward pass in training mode, or nothing trains.
        """
        if self.nodes and not self._layer(self.nodes[-1]).learns:
            raise RuntimeError(
                "expected parameters to train, got none: all rates are 0, or all are frozen"
            )
        last = as_images(error) if self._lines else error
        errors: dict[int, QTensor] = {len(self.nodes) - 1: last}
        for index in reversed(range(len(self.nodes))):
            node, arrived = self.nodes[index], errors.pop(index, None)
            layer = self._layer(node)
            if arrived is None:
                layer.forget()
                continue
            for source, found in zip(node.inputs, layer.backward(arrived), strict=True):
                if found is None or source == _INPUT or not self._layer(self.nodes[source]).learns:
                    continue
                errors[source] = self._join(errors.get(source), found, index)
            layer.forget()
        self.clock.passes += 1

    def _join(self, have: QTensor | None, more: QTensor, index: int) -> QTensor:
        if have is None or _is_zero(have.values):
            return more  # zeros have no exponent that the sum should respect
        if _is_zero(more.values):
            return have
        noise = self.clock.noise(_JOIN_SITE + index, 0)
        kernels = self.clock.kernels(more.values)
        values, exponent = kernels.add(
            have.values, have.exponent, more.values, more.exponent, self.config.error_bits, noise
        )
        return QTensor(values, exponent)

    def integer_parameters(self) -> Iterator[IntegerParameter]:
        """Yield the parameters, always in the same order."""
        yield from _parameters(self)

    def grow(self, classes: int) -> None:
        """Give the last layer more outputs, for classes that were not there.

        The new ones start with weights of zero; the others, their momentum and every optimizer stay
        as they are. A state of fewer classes must be loaded before.

        Args:
            classes: How many there are then.

        Raises:
            ValueError: If the last layer is no linear layer, or has as many outputs already.
        """
        last = self._layer(self.nodes[-1])
        if not isinstance(last, ProductLayer) or not last.product.linear:
            raise ValueError(
                f"{last.name}: expected a network that ends in a linear layer, got "
                f"{type(last).__name__}; only such a layer can grow"
            )
        have = len(last.weight.weight)
        if classes <= have:
            raise ValueError(
                f"{last.name}: expected more than its {have} classes, got {classes}; classes stay"
            )
        for parameter in (last.weight, last.bias):
            if parameter is not None:
                parameter.grow(classes)
        self._checked = None

    def start_anew(self) -> None:
        """Forget momentum and step number, and keep the weights: the start of another run."""
        for parameter in self.integer_parameters():
            parameter.forget_momentum()
            parameter.gradient = None
        self.clock.step = self.clock.passes = 0

    def set_rates(self, backbone: float, last: float = 1.0) -> None:
        """Set factors on the learning rate; 0 freezes weights and stops errors before them.

        Args:
            backbone: Of all layers but the last that has weights.
            last: Of that layer.

        Raises:
            ValueError: If a factor is negative or no number.
        """
        for factor in (backbone, last):
            if not factor >= 0:
                raise ValueError(f"expected factors of at least 0, got {factor}")
        weighted = [m for m in self.layers if any(True for _ in _parameters(m))]
        head = {id(p) for p in _parameters(weighted[-1])} if weighted else set()
        for parameter in self.integer_parameters():
            parameter.rate = last if id(parameter) in head else backbone
        self.mark_needed_gradients()

    def requires_grad_(self, requires_grad: bool = True) -> IntegerNetwork:
        """Freeze all weights, or let them train; ``IntegerParameter.frozen`` does for one."""
        for parameter in self.integer_parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; they are never zeros that count.

        Args:
            set_to_none: Taken for PyTorch's sake.
        """
        del set_to_none
        for parameter in self.integer_parameters():
            parameter.gradient = None
        self.clock.passes = 0

    def freeze_statistics(self) -> None:
        """Normalize by the running statistics in training too, and leave them as they are."""
        for layer in self.layers:
            if isinstance(layer, NormalizingLayer):
                layer.freeze()

    def kept_bytes(self) -> int:
        """Return the bytes kept for the backward pass, each storage once [bytes]."""
        kept = [t for layer in self.layers for t in layer.kept()]  # type: ignore[operator]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
        return sum(storages.values())

    def get_extra_state(self) -> ExtraState:
        """Return the step number, which decides the random bits, and the configuration."""
        return {"step": self.clock.step, "config": asdict(self.config)}

    def set_extra_state(self, state: ExtraState) -> None:
        """Restore the step number; ``load_state_dict`` has looked at the configuration."""
        self.clock.step, self.clock.passes = int(state["step"]), 0

    def load_state_dict(
        self, state_dict: Mapping[str, object], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """Take over a state, all of it or nothing.

        Args:
            state_dict: What ``state_dict`` of such a network returned.
            strict: Whether the keys must be the same.
            assign: Not offered: the buffers stay where they are.

        Raises:
            ValueError: If the state is of another configuration, or a tensor of another type or
                shape; nothing has changed then.
            RuntimeError: If keys are missing or unknown; nothing has changed then.
        """
        if assign:
            raise ValueError("expected assign=False: an integer network copies what it loads")
        check_state(self, state_dict, strict)
        return super().load_state_dict(state_dict, strict=strict)


def _parameters(module: nn.Module) -> Iterator[IntegerParameter]:
    for part in module.modules():
        if isinstance(part, IntegerParameter):
            yield part


def as_images(x: QTensor) -> QTensor:
    """Return lines (N, C, L) as images of one row; others as they are."""
    return QTensor(x.values[:, :, None], x.exponent) if x.values.dim() == 3 else x


def _describe(images: QTensor | Tensor) -> str:
    values = images.values if isinstance(images, QTensor) else images
    dtype = getattr(values, "dtype", None)
    return f"{type(images).__name__} of {dtype}" if dtype else type(images).__name__


def _is_zero(values: Tensor) -> bool:
    return int(values.amax()) == 0 == int(values.amin())  # any() takes fifty times as long
