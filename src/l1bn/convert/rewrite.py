"""The rewritten forward of a block, one for training and one for evaluation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from l1bn.convert.call import CallPattern
from l1bn.convert.match import Findings, Match, activation_name, find
from l1bn.convert.norm_act import norm_act, norm_act_pair
from l1bn.convert.trace import NotTraceableError, trace_block


@dataclass
class Rewrite:
    """A block's rewritten forwards.

    Attributes:
        functions: by training mode; ``None`` where nothing is fused or nothing could be traced.
        texts: per fused layer (path in the block) what was fused.
        skipped: paths of identity layers that are no longer called.
    """

    functions: dict[bool, Callable[..., Any] | None]
    texts: dict[str, str]
    skipped: set[str]


def look(
    block: nn.Module, pattern: CallPattern, inlined: frozenset[str], tails: frozenset[str]
) -> Findings:
    """Trace a block in training mode and find what can be fused.

    Args:
        block: the module.
        pattern: how it is called.
        inlined: paths of submodules to reach into.
        tails: paths of other submodules whose output is that of a normalization layer.

    Raises:
        NotTraceableError: with the reason.
    """
    with mode(block, inlined, training=True):
        return find(block, trace_block(block, pattern, inlined), tails)


def rewrite_block(block: nn.Module, pattern: CallPattern, inlined: frozenset[str]) -> Rewrite:
    """Rewrite a block's forward for both modes.

    Args:
        block: the module.
        pattern: how it is called.
        inlined: paths of submodules to reach into.
    """
    rewrite = Rewrite({}, {}, set())
    for training in (False, True):
        with mode(block, inlined, training):
            try:
                graph = trace_block(block, pattern, inlined)
            except NotTraceableError:
                rewrite.functions[training] = None
                continue
            matches = find(block, graph, frozenset()).matches
        for match in matches:
            text = _replace(graph, match)
            for node in (match.norm, match.other):
                if node is not None:
                    rewrite.texts[str(node.target)] = f"{node.target}{text}"
            rewrite.skipped.update(str(node.target) for node in match.before + match.after)
        rewrite.functions[training] = _compile(block, graph) if matches else None
    return rewrite


@contextlib.contextmanager
def mode(block: nn.Module, inlined: frozenset[str], training: bool) -> Iterator[None]:
    """Put a block and its inlined parts, not their submodules, into a mode for a while."""
    parts = [block, *(block.get_submodule(path) for path in inlined)]
    before = [part.training for part in parts]
    try:
        for part in parts:
            part.training = training
        yield
    finally:
        for part, was in zip(parts, before, strict=True):
            part.training = was


def _replace(graph: fx.Graph, match: Match) -> str:
    """Put one call in the place of the matched nodes. Says what follows the layer in it."""
    module_act = match.act.op == "call_module"
    with graph.inserting_before(match.norm if match.add is None else match.add):
        norm = graph.create_node("get_attr", str(match.norm.target))
        act: fx.Node | str
        if module_act:
            act = graph.create_node("get_attr", str(match.act.target))
        else:
            act = activation_name(match.act)
        args: tuple[Any, ...] = (norm, act, match.norm.args[0])
        if match.other is not None:
            other = graph.create_node("get_attr", str(match.other.target))
            fused = graph.call_function(norm_act_pair, (*args, other, match.other.args[0]))
        else:
            residual = match.residual
            fused = graph.call_function(norm_act, args if residual is None else (*args, residual))
    match.act.replace_all_uses_with(fused)
    for node in match.nodes:
        graph.erase_node(node)
    steps = ["", *(["add"] if match.add else [])]
    return " → ".join([*steps, str(match.act.target) if module_act else str(act)])


def _compile(block: nn.Module, graph: fx.Graph) -> Callable[..., Any]:
    for node in graph.nodes:
        node.meta.pop("is_wrapped", None)  # else the code would register its helpers with fx
    graph.lint()
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(compile(code.src, f"<fused {type(block).__name__}>", "exec"), namespace)
    return namespace["forward"]
