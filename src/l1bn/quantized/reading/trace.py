"""Reads the structure of a float network: which layer takes whose output."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import fx, nn

from l1bn.quantized.reading.spellings import (
    UNREAD,
    Size,
    UnsupportedError,
    modules_of,
    rank_after,
    title_of,
)

_ADDITIONS: set[object] = {operator.add, operator.iadd, torch.add, "add", "add_", "__add__"}
_JOINS: set[object] = {torch.cat, torch.concat, torch.concatenate}
_FRAME = re.compile(r'File "(.+?)", line (\d+)')


@dataclass(eq=False)
class Step:
    """One operation of the float network.

    Attributes:
        name: Name of the layer, or of the operation.
        kind: "module", "add" or "cat".
        module: The layer, or the layer that an operation stands for; None for "add" and "cat".
        inputs: The steps whose outputs it takes; None is the network's input.
        place: File and line of an operation.
        rank: Dimensions of its output, where they are known.
        users: The steps that take its output.
    """

    name: str
    kind: str
    module: nn.Module | None
    inputs: list[Step | None]
    place: str = ""
    rank: int | None = None
    users: list[Step] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Name, type and place, as errors begin."""
        kind = self.kind if self.module is None else type(self.module).__name__
        return f"{self.name} ({kind}{self.place and f', {self.place}'})"


class _Tracer(fx.Tracer):
    """Stops at every layer of torch.nn and at every normalization."""

    record_stack_traces = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            return True
        return super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> list[Step]:
    """Return the operations of a network in an order in which inputs come first.

    Raises:
        UnsupportedError: If the network's structure depends on its data, or an operation has no
            integer form; the message names it, its place and the way out.
    """
    if type(model).__module__.startswith("torch.nn") and not list(model.children()):
        model = nn.Sequential(model)  # a layer alone is no leaf to the tracer
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise UnsupportedError(
            f"expected a network that torch.fx can trace, got {type(model).__name__}: {error}; "
            "remove control flow that depends on the data"
        ) from error
    return _Reader(dict(model.named_modules())).read(graph)


class _Reader:
    """Makes steps of a graph's nodes; a node is a step, the network's input, or a number."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules = modules
        self.steps: list[Step] = []
        self.values: dict[fx.Node, Step | Size | None] = {}

    def read(self, graph: fx.Graph) -> list[Step]:
        for node in graph.nodes:
            if node.op == "placeholder":
                self._refuse_second_input(node)
                self.values[node] = None
            elif node.op == "output":
                self._check_output(node)
            else:
                self.values[node] = self._value(node)
        _refuse_tied(self.steps)
        for step in self.steps:
            for source in step.inputs:
                if source is not None:
                    source.users.append(step)
        return self.steps

    def _refuse_second_input(self, node: fx.Node) -> None:
        if None in self.values.values():
            raise UnsupportedError(f"expected one input, got another: {node.name}")

    def _value(self, node: fx.Node) -> Step | Size | None:
        if node.op == "call_module":
            name = str(node.target)
            inputs = self._tensors(node, (*node.args, *node.kwargs.values()))
            return self._append(Step(name, "module", self.modules[name], inputs))
        if node.op not in ("call_function", "call_method"):
            raise UnsupportedError(
                f"{node.name}: expected weights within layers of torch.nn, got a parameter that "
                f"the forward itself reads ({node.target}); make it the weight of a layer"
            )
        size = self._size(node)
        if size is not None:
            return size
        if node.target in _ADDITIONS:
            inputs = self._tensors(node, (*node.args, *node.kwargs.values()))
            return self._append(Step(node.name, "add", None, inputs, place_of(node)))
        if node.target in _JOINS:
            return self._append(self._join(node))
        return self._spelled(node)

    def _size(self, node: fx.Node) -> Size | None:
        """What a node is that reads a shape, or computes with one; None where it does not."""
        first = node.args[0] if node.args else None
        read = self.values.get(first) if isinstance(first, fx.Node) else None
        if isinstance(read, Size):
            index = node.args[1] if node.target is operator.getitem else UNREAD
            return read.item(index)
        others = [a for a in node.args if isinstance(a, fx.Node)]
        if any(isinstance(self.values.get(a), Size) for a in others) and first not in others:
            return Size()
        if node.target is getattr and node.args[1] == "shape":
            return Size(whole=True)
        if node.target == "size":
            whole = Size(whole=True)
            dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            return whole if dim is None else whole.item(dim)
        return None

    def _spelled(self, node: fx.Node) -> Step | None:
        """The last step of a function or method: of the layers that say the same, if any."""
        place = place_of(node)
        source = self._tensor(node, node.args[0] if node.args else node.kwargs.get("input"))
        rank = None if source is None else source.rank
        args = [self._number(a) for a in node.args[1:]]
        named = {k: self._number(v) for k, v in node.kwargs.items() if k != "input"}
        title = f"{node.name} ({title_of(node.target)}, {place})"
        step: Step | None = source
        for module in modules_of(node.target, args, named, title, rank):
            step = self._append(Step(node.name, "module", module, [step], place))
        return step

    def _number(self, value: object) -> object:
        if isinstance(value, fx.Node):
            return self.values[value]
        if isinstance(value, (tuple, list)):
            return tuple(self._number(v) for v in value)
        return value

    def _join(self, node: fx.Node) -> Step:
        parts = node.args[0] if node.args else node.kwargs.get("tensors")
        dim = (
            node.args[1]
            if len(node.args) > 1
            else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        )
        if dim != 1 or not isinstance(parts, (tuple, list)):
            raise UnsupportedError(
                f"{node.name} (cat, {place_of(node)}): expected a list of tensors joined along "
                f"their channels, got dim={dim}; call torch.cat([a, b], dim=1)"
            )
        return Step(node.name, "cat", None, self._tensors(node, tuple(parts)), place_of(node))

    def _tensors(self, node: fx.Node, arguments: tuple[object, ...]) -> list[Step | None]:
        others = [a for a in arguments if not isinstance(a, fx.Node) and a is not None]
        if others or not arguments:
            place = f" ({place_of(node)})" if node.op != "call_module" else ""
            got = repr(others[0]) if others else "none"
            raise UnsupportedError(
                f"{node.target if node.op == 'call_module' else node.name}{place}: expected "
                f"tensors as inputs, got {got}; integers are not scaled or shifted by numbers"
            )
        return [self._tensor(node, a) for a in arguments if a is not None]

    def _tensor(self, node: fx.Node, argument: object) -> Step | None:
        found = self.values.get(argument, UNREAD) if isinstance(argument, fx.Node) else UNREAD
        if found is not None and not isinstance(found, Step):
            raise UnsupportedError(
                f"{node.name} ({title_of(node.target)}, {place_of(node)}): expected a tensor of "
                "the network, got a number; integer training has no other constants than weights"
            )
        return found

    def _append(self, step: Step) -> Step:
        first = step.inputs[0] if step.inputs else None
        step.rank = rank_after(step.module, None if first is None else first.rank)
        self.steps.append(step)
        return step

    def _check_output(self, node: fx.Node) -> None:
        result = node.args[0]
        found = self.values.get(result) if isinstance(result, fx.Node) else None
        last = self.steps[-1] if self.steps else None
        if not isinstance(result, fx.Node) or found is not last:
            got = title_of(result) if not isinstance(result, fx.Node) else result.name
            raise UnsupportedError(
                "expected a network that returns the output of its last layer, got "
                f"{got}; wrap it so that it returns the logits only"
            )


def place_of(node: fx.Node) -> str:
    """Return file and line of an operation of the float network."""
    found = _FRAME.search(node.stack_trace or "")
    return f"{Path(found[1]).name}:{found[2]}" if found else "no line known"


def _refuse_tied(steps: list[Step]) -> None:
    """A layer may be used again; two layers may not hold one tensor, except as their weight."""
    owners: dict[int, tuple[str, nn.Module]] = {}
    for step in steps:
        module = step.module
        if module is None:
            continue
        norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        held = [*module.parameters(), *module.buffers()] if norm else []
        for tensor in held:
            name, owner = owners.setdefault(id(tensor), (step.name, module))
            if owner is not module:
                raise UnsupportedError(
                    f"{step.title}: expected parameters and statistics of its own, got those of "
                    f"{name}; use that layer itself in both places"
                )
