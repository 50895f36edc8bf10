"""Where in the trace of a block a normalization layer can take over what follows it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from l1bn.convert.norm_act import is_fusable_norm
from l1bn.nn.fusable import activation_of, is_watched

#: Functions that are an activation, by the name that a layer knows it under.
RELU_FUNCTIONS: dict[Callable[..., Any], str] = {
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu6: "relu6",
}
_RELU_METHODS = {"relu": "relu", "relu_": "relu"}
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_ADD_METHODS = ("add", "add_")
_IN_PLACE = (operator.iadd, "add_")


@dataclass(frozen=True)
class Match:
    """One place where layers become one.

    Attributes:
        norm: call of the normalization layer (or of a submodule that ends in one).
        act: call of the activation.
        add: the addition between them, if any.
        before: calls of identity layers after ``norm``.
        after: calls of identity layers after ``add``.
        other: call of the layer (or of a submodule that ends in one) whose output is added, where
            nothing else reads it.
    """

    norm: fx.Node
    act: fx.Node
    add: fx.Node | None
    before: tuple[fx.Node, ...]
    after: tuple[fx.Node, ...] = ()
    other: fx.Node | None = None

    @property
    def residual(self) -> fx.Node | None:
        """What is added, as the graph is now."""
        if self.add is None:
            return None
        value = self.before[-1] if self.before else self.norm
        return _residual(self.add, value)

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """The nodes to be replaced, the last one first."""
        add = () if self.add is None else (self.add,)
        other = () if self.other is None else (self.other,)
        return (self.act, *reversed(self.after), *add, *reversed(self.before), self.norm, *other)


@dataclass
class Findings:
    """What one trace of a block shows.

    Attributes:
        matches: places that can be fused.
        misses: per layer (path in the block) that cannot, the reason.
        ends: layers whose output is the block's output.
    """

    matches: list[Match] = field(default_factory=list)
    misses: dict[str, str] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)


class _MissError(Exception):
    """A layer cannot be fused here; the message says why."""


def find(block: nn.Module, graph: fx.Graph, tails: frozenset[str]) -> Findings:
    """Look at every normalization layer in a trace.

    Args:
        block: the module that was traced.
        graph: its trace.
        tails: paths of opaque submodules whose output is that of a normalization layer.
    """
    findings = Findings()
    taken: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_module" or not _is_candidate(block, node, tails) or node in taken:
            continue
        try:
            match = _match(block, node, taken)
        except _MissError as miss:
            findings.misses[node.target] = str(miss)
            continue
        if match is None:
            findings.ends.append(node.target)
        else:
            match = _with_other(block, match, tails)
            findings.matches.append(match)
            taken.update(match.nodes)
    return findings


def _is_candidate(block: nn.Module, node: fx.Node, tails: frozenset[str]) -> bool:
    if node.target in tails:
        return True
    one_input = len(node.args) == 1 and isinstance(node.args[0], fx.Node) and not node.kwargs
    return one_input and is_fusable_norm(_module(block, node))


def _match(block: nn.Module, norm: fx.Node, taken: set[fx.Node]) -> Match | None:
    """The match that starts at ``norm``; ``None`` where its output leaves the block."""
    module = _module(block, norm)
    if module is not None and is_watched(module):
        raise _MissError("a hook watches its output")
    last, skipped = _past_identities(block, norm)
    user = _only_user(last, "its output")
    if user.op == "output":
        if user.args[0] is last:
            return None
        raise _MissError(f"its output leaves {type(block).__name__} inside a collection")
    if user in taken:
        raise _MissError("its output is the residual of a layer that is fused")
    if _activation(block, user, last) is not None:
        return Match(norm, user, None, skipped)
    if not _is_addition(user):
        raise _MissError(f"no ReLU or ReLU6 follows, but {_name(block, user)}")
    _residual(user, last)
    _check_order(block, norm, user, skipped)
    total, more = _past_identities(block, user)
    act = _only_user(total, "the sum after it")
    if _activation(block, act, total) is None:
        what = "nothing" if act.op == "output" else _name(block, act)
        raise _MissError(f"an addition follows, and then {what} instead of ReLU or ReLU6")
    return Match(norm, act, user, skipped, more)


def _with_other(block: nn.Module, match: Match, tails: frozenset[str]) -> Match:
    """The match together with the layer that gives its residual, where that can join it."""
    other = match.residual
    if match.add is None or other is None or other.op != "call_module":
        return match
    module = _module(block, other)
    alone = len(other.users) == 1 and module is not None and not is_watched(module)
    if not alone or not _is_candidate(block, other, tails):
        return match
    if module is _module(block, match.norm):
        return match
    try:
        _check_order(block, other, match.add, (match.norm, *match.before))
    except _MissError:
        return match
    return replace(match, other=other)


def _module(block: nn.Module, node: fx.Node) -> nn.Module | None:
    return block.get_submodule(str(node.target)) if node.op == "call_module" else None


def _past_identities(block: nn.Module, node: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    skipped: list[fx.Node] = []
    while len(node.users) == 1:
        user = next(iter(node.users))
        module = _module(block, user)
        if type(module) is not nn.Identity or is_watched(module):
            break
        skipped.append(user)
        node = user
    return node, tuple(skipped)


def _only_user(node: fx.Node, what: str) -> fx.Node:
    if len(node.users) != 1:
        raise _MissError(f"{what} is used {len(node.users)} times")
    return next(iter(node.users))


def _activation(block: nn.Module, node: fx.Node, value: fx.Node) -> str | None:
    """Name of the activation that a node applies to ``value`` alone, or ``None``."""
    if not node.args or node.args[0] is not value or value in node.kwargs.values():
        return None
    if node.op == "call_module":
        plain = len(node.args) == 1 and not node.kwargs
        return activation_of(_module(block, node)) if plain else None
    if node.op == "call_function":
        return RELU_FUNCTIONS.get(node.target)  # type: ignore[arg-type]
    if node.op == "call_method":
        return _RELU_METHODS.get(str(node.target))
    return None


def activation_name(node: fx.Node) -> str:
    """Name of the activation of a node that calls a function or a method."""
    table: dict[Any, str] = {**RELU_FUNCTIONS, **_RELU_METHODS}
    return table[node.target]


def _is_addition(node: fx.Node) -> bool:
    if node.kwargs or len(node.args) != 2:
        return False
    if node.op == "call_function":
        return node.target in _ADDITIONS
    return node.op == "call_method" and node.target in _ADD_METHODS


def _residual(addition: fx.Node, value: fx.Node) -> fx.Node:
    first, second = addition.args
    residual = second if first is value else first
    if not isinstance(residual, fx.Node):
        raise _MissError("a constant is added to its output")
    if residual is value:
        raise _MissError("its output is added to itself")
    if addition.target in _IN_PLACE and first is not value:
        raise _MissError(
            "its output is added in place to another tensor, which changes that tensor"
        )
    return residual


def _check_order(
    block: nn.Module, norm: fx.Node, addition: fx.Node, skipped: tuple[fx.Node, ...]
) -> None:
    """The fused call takes the addition's place: nothing in between may notice."""
    between = [node for node in _between(norm, addition) if node not in skipped]
    if not between:
        return
    source = norm.args[0]
    assert isinstance(source, fx.Node)
    # The output of a convolution that only this layer reads: nobody else can change it.
    fresh = isinstance(_module(block, source), (_ConvNd, nn.Linear)) and len(source.users) == 1
    layer = _module(block, norm)
    parts = (part for node in between if (part := _module(block, node)) is not None)
    again = any(layer is inner for part in parts for inner in part.modules())
    if again or not (fresh or is_tail(block, norm)):
        raise _MissError("other operations run between it and the addition")


def is_tail(block: nn.Module, node: fx.Node) -> bool:
    """Whether the node calls a submodule that ends in a layer, and not the layer itself."""
    return not is_fusable_norm(_module(block, node))


def _between(first: fx.Node, last: fx.Node) -> Iterator[fx.Node]:
    node = first.next
    while node is not last:
        if node.op not in ("placeholder", "get_attr"):
            yield node
        node = node.next


def _name(block: nn.Module, node: fx.Node) -> str:
    module = _module(block, node)
    if module is not None:
        hooked = " with a hook" if activation_of(module) is None and is_watched(module) else ""
        return type(module).__name__ + hooked
    return str(getattr(node.target, "__name__", node.target))
