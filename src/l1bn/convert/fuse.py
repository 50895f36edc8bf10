"""Finding the blocks of a model in which layers can become one, and fusing them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from l1bn.convert.call import CallPattern
from l1bn.convert.fused import install, remove
from l1bn.convert.fusion import Fusion, SourceFusion, TracedFusion
from l1bn.convert.match import Findings
from l1bn.convert.norm_act import is_fusable_norm
from l1bn.convert.observe import observe, verify
from l1bn.convert.report import Item
from l1bn.convert.rewrite import look, rewrite_block
from l1bn.convert.source import NoSourceError, rewrite_source
from l1bn.convert.trace import NotTraceableError
from l1bn.convert.watch import Watch, is_fused
from l1bn.nn import L1BatchNormAct2d
from l1bn.nn.batchnorm import _L1BatchNorm


@dataclass(frozen=True)
class Tail:
    """A module whose output is that of a normalization layer inside it.

    Attributes:
        path: the layer's path in the module, ``""`` where the module is the layer.
        norm: the layer.
    """

    path: str
    norm: nn.Module

    def inlined(self, prefix: str) -> frozenset[str]:
        """Paths to reach into, from the module at ``prefix`` to the one that holds the layer."""
        names = [prefix, *self.path.split(".")]
        return frozenset(".".join(names[: i + 1]) for i in range(len(names) - 1))


def fuse(model: nn.Module, example: Any) -> tuple[list[Item], list[Item]]:
    """Fuse every place of a converted model where that is the same function.

    Args:
        model: model with L1BN layers.
        example: input to run it with.

    Returns:
        What was fused, and the layers that were not, with the reason.

    Raises:
        ValueError: the model does not run on the example.
    """
    fuser = _Fuser(model, observe(model, example))
    fuser.visit(model)
    verify(model, example, fuser.take_back)
    return fuser.report()


class _Fuser:
    """One walk over a model, inner modules first."""

    def __init__(self, model: nn.Module, calls: dict[nn.Module, CallPattern | str]) -> None:
        self._paths = {module: path for path, module in model.named_modules()}
        self._calls = calls
        self._tails: dict[nn.Module, Tail | None] = {}
        self._fused: dict[nn.Module, dict[nn.Module, str]] = {}
        self._reasons: dict[nn.Module, str] = {}

    def visit(self, module: nn.Module) -> None:
        """Fuse inside a module, after everything inside its submodules."""
        if module in self._tails:
            return
        if is_fusable_norm(module):
            self._tails[module] = Tail("", module)
            return
        self._tails[module] = None
        for child in module.children():
            self.visit(child)
        candidates = dict(self._candidates(module, ""))
        if candidates and module in self._calls:
            self._look_at(module, candidates)

    def _candidates(self, module: nn.Module, prefix: str) -> Iterator[tuple[str, Tail]]:
        """Submodules that end in a layer; containers that are never called are looked through."""
        for name, child in module.named_children():
            tail = self._tails.get(child)
            if tail is not None:
                yield prefix + name, tail
            elif child not in self._calls:
                yield from self._candidates(child, f"{prefix}{name}.")

    def _look_at(self, block: nn.Module, candidates: dict[str, Tail]) -> None:
        pattern = self._calls[block]
        name = type(block).__name__
        try:
            if isinstance(pattern, str):
                raise NotTraceableError(pattern)
            findings, inlined = self._findings(block, pattern, candidates)
        except NotTraceableError as error:
            for tail in candidates.values():
                self._miss(tail.norm, f"{name}.forward cannot be traced: {error}")
            self._from_source(block)
            return
        for path, reason in findings.misses.items():
            self._miss(self._norm_at(block, path), reason)
        for path in findings.ends:
            self._end(block, path, candidates)
        if findings.matches:
            self._traced(block, pattern, inlined)

    def _findings(
        self, block: nn.Module, pattern: CallPattern, candidates: dict[str, Tail]
    ) -> tuple[Findings, frozenset[str]]:
        """Look at a block, reaching into submodules where a layer at their end can be fused."""
        tails = frozenset(path for path, tail in candidates.items() if tail.path)
        findings = look(block, pattern, frozenset(), tails)
        layers = (node for match in findings.matches for node in (match.norm, match.other))
        wanted = {str(node.target) for node in layers if node is not None} & tails
        inlined = frozenset(part for path in wanted for part in candidates[path].inlined(path))
        if wanted:
            findings = look(block, pattern, inlined, tails - inlined)
        return findings, inlined

    def _norm_at(self, block: nn.Module, path: str) -> nn.Module:
        module = block.get_submodule(path)
        tail = self._tails[module]
        assert tail is not None
        return tail.norm

    def _end(self, block: nn.Module, path: str, candidates: dict[str, Tail]) -> None:
        module = block.get_submodule(path)
        tail = self._tails[module]
        assert tail is not None
        inner = f"{path}.{tail.path}" if tail.path else path
        self._tails[block] = Tail(inner, tail.norm)
        self._miss(tail.norm, "its output leaves the model")

    def _miss(self, norm: nn.Module, reason: str) -> None:
        self._reasons[norm] = reason

    def _traced(self, block: nn.Module, pattern: CallPattern, inlined: frozenset[str]) -> None:
        rewrite = rewrite_block(block, pattern, inlined)
        watched = [*sorted(inlined), *sorted(rewrite.skipped)]
        watches = [Watch(block), *(Watch(block.get_submodule(path)) for path in watched)]
        self._install(
            TracedFusion(block, rewrite.texts, pattern, inlined, watches, rewrite.functions)
        )

    def _from_source(self, block: nn.Module) -> None:
        with contextlib.suppress(NoSourceError):
            function, texts = rewrite_source(block)
            if texts:
                self._install(SourceFusion(block, texts, function))

    def _install(self, fusion: Fusion) -> None:
        block = fusion.block
        install(block, fusion)
        self._fused[block] = {
            block.get_submodule(path): text for path, text in fusion.texts.items()
        }

    def take_back(self, block: nn.Module, reason: str) -> None:
        """Undo a fusion that did not stand the comparison."""
        remove(block)
        for norm in self._fused.pop(block):
            self._miss(norm, f"fused, {type(block).__name__} would not be the same: {reason}")

    def report(self) -> tuple[list[Item], list[Item]]:
        """What was fused, and what was not."""
        fused: dict[nn.Module, Item] = {}
        for block, texts in self._fused.items():
            for norm, text in texts.items():
                fused[norm] = Item(self._paths[norm], _types(block, text))
        missed = []
        for norm, path in self._paths.items():
            if norm in fused or not isinstance(norm, _L1BatchNorm):
                continue
            reason = self._reason(norm)
            if reason is not None:
                missed.append(Item(path, reason))
        return list(fused.values()), missed

    def _reason(self, norm: nn.Module) -> str | None:
        if norm in self._reasons:
            return self._reasons[norm]
        if not is_fusable_norm(norm):
            if isinstance(norm, L1BatchNormAct2d):
                return None  # has its activation inside
            return f"{type(norm).__name__} takes no activation"
        if norm not in self._calls:
            return "the example did not reach it"
        return "called from a place that was not found"


def unfuse(model: nn.Module) -> list[Item]:
    """Give every fused block of a model its own forward back. Returns what was fused."""
    items: dict[str, Item] = {}
    for path, block in list(model.named_modules()):
        if is_fused(block):
            for inner, text in remove(block).items():
                # Once for a layer that was fused by its block and by one around that.
                at = f"{path}.{inner}" if path else inner
                items[at] = Item(at, _types(block, text))
    return list(items.values())


def _types(block: nn.Module, text: str) -> str:
    """``layer.2.norm → add → act`` with the types of the layers in the place of their paths."""
    modules = dict(block.named_modules())
    return " → ".join(
        type(modules[step]).__name__ if step in modules else step for step in text.split(" → ")
    )
