"""Reads the structure of a float network: which layer takes whose output."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import fx, nn


class UnsupportedError(ValueError):
    """A network that has no integer form."""


@dataclass
class Step:
    """One operation of the float network.

    Attributes:
        name: Name of the layer, or of the operation.
        kind: "module", "relu", "add" or "flatten".
        module: The layer, for "module".
        inputs: The steps whose outputs it takes; None is the network's input.
        users: The steps that take its output.
    """

    name: str
    kind: str
    module: nn.Module | None
    inputs: list[Step | None]
    users: list[Step] = field(default_factory=list)


class _Tracer(fx.Tracer):
    """Stops at every layer of torch.nn and at every normalization."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            return True
        return super().is_leaf_module(m, module_qualified_name)


_FUNCTIONS: dict[object, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    torch.flatten: "flatten",
}
_METHODS: dict[object, str] = {
    "relu": "relu",
    "relu_": "relu",
    "add": "add",
    "add_": "add",
    "flatten": "flatten",
}


def trace(model: nn.Module) -> list[Step]:
    """Return the operations of a network in an order in which inputs come first.

    Raises:
        UnsupportedError: If the network's structure depends on its data, or an operation has no
            integer form; the message names it and the way out.
    """
    if isinstance(model, (nn.Conv2d, nn.Linear)):
        model = nn.Sequential(model)  # a layer alone is no leaf to the tracer
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        raise UnsupportedError(
            f"expected a network that torch.fx can trace, got {type(model).__name__}: {error}; "
            "remove control flow that depends on the data"
        ) from error
    modules = dict(model.named_modules())
    steps: dict[fx.Node, Step | None] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            if None in steps.values():
                raise UnsupportedError(f"expected one input, got another: {node.name}")
            steps[node] = None
        elif node.op == "output":
            _check_output(node, steps)
        else:
            steps[node] = _step(node, modules, steps)
    found = [s for s in steps.values() if s is not None]
    _refuse_sharing(found)
    for step in found:
        for source in step.inputs:
            if source is not None:
                source.users.append(step)
    return found


def _refuse_sharing(steps: list[Step]) -> None:
    """Each master and each running average belongs to one place: shared ones would drift apart."""
    owners: dict[int, str] = {}
    for step in steps:
        module = step.module
        held = [] if module is None else [*module.parameters(), *module.buffers()]
        for tensor in held:
            if id(tensor) in owners:
                raise UnsupportedError(
                    f"{step.name}: expected weights and statistics that are used once, got those "
                    f"of {owners[id(tensor)]} again; integer training cannot share them"
                )
        owners |= dict.fromkeys(map(id, held), step.name)


def _step(node: fx.Node, modules: dict[str, nn.Module], steps: dict[fx.Node, Step | None]) -> Step:
    if node.op == "call_module":
        name = str(node.target)
        return Step(name, "module", modules[name], _inputs(node, steps, name))
    table = _FUNCTIONS if node.op == "call_function" else _METHODS
    kind = table.get(node.target) if node.op in ("call_function", "call_method") else None
    if kind is None:
        raise UnsupportedError(
            f"{node.name}: expected an operation with an integer form (relu, add, flatten, or a "
            f"layer of torch.nn), got {_title(node.target)}; replace it by one of them"
        )
    if kind == "flatten" and not _flattens_all(node):
        raise UnsupportedError(f"{node.name}: expected flatten(1), got {node.args[1:]}")
    return Step(node.name, kind, None, _inputs(node, steps, node.name))


def _inputs(node: fx.Node, steps: dict[fx.Node, Step | None], name: str) -> list[Step | None]:
    arguments = [*node.args, *node.kwargs.values()]
    tensors = [a for a in arguments if isinstance(a, fx.Node)]
    others = [a for a in arguments if not isinstance(a, fx.Node) and a is not None]
    if others and node.target not in (torch.flatten, F.relu, "flatten"):
        raise UnsupportedError(f"{name}: expected tensors as inputs, got {others[0]!r}")
    return [steps[t] for t in tensors]


def _flattens_all(node: fx.Node) -> bool:
    dims = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
    return bool(dims.get("start_dim", 0) == 1 and dims.get("end_dim", -1) == -1)


def _check_output(node: fx.Node, steps: dict[fx.Node, Step | None]) -> None:
    result = node.args[0]
    last = next((s for s in reversed(list(steps.values())) if s is not None), None)
    if not isinstance(result, fx.Node) or steps.get(result) is not last:
        raise UnsupportedError(
            "expected a network that returns the output of its last layer, got "
            f"{_title(result)}; wrap it so that it returns the logits only"
        )


def _title(target: object) -> str:
    if isinstance(target, Callable):  # type: ignore[arg-type]
        return getattr(target, "__name__", repr(target))
    return repr(target)
