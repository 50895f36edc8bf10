"""Which blocks of a model are fused, and what is said about each of its layers."""

from __future__ import annotations

import inspect

from torch import nn

from l1bn.activation import split
from l1bn.convert.fusion.block import (
    class_plan,
    install,
    is_fused,
    is_sequential,
    original_class,
    remove,
)
from l1bn.convert.fusion.decide import NORMS
from l1bn.convert.fusion.plan import Method, Plan
from l1bn.convert.fusion.rewrite import Origins
from l1bn.convert.fusion.source import NoSourceError
from l1bn.model.report import Item
from l1bn.nn import L1BatchNormAct2d
from l1bn.nn.batchnorm import _L1BatchNorm
from l1bn.nn.fusable import FUSABLE, activation_of, is_identity, is_watched

_TITLES = {row.name: row.module.__name__ for row in FUSABLE} | {"gelu_tanh": "GELU"}
Ends = dict[nn.Module, bool]  # layer, and whether something was added to its output


def fuse(model: nn.Module) -> tuple[list[Item], list[Item]]:
    """Fuse what can be fused. Returns what will be, and what not, with the reason."""
    fuser = _Fuser(model)
    for block in fuser.blocks:
        install(block)
    return fuser.report()


def unfuse(model: nn.Module) -> list[Item]:
    """Give every block its own class back. Returns what was fused."""
    blocks = [block for block in model.modules() if is_fused(block)]
    fused = _Fuser(model).report()[0] if blocks else []
    for block in blocks:
        remove(block)
    return fused


class _Fuser:
    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._ends: dict[nn.Module, Ends] = {}
        self._fused: dict[nn.Module, str] = {}
        self._reasons: dict[nn.Module, str] = {}
        self._through: dict[nn.Module, set[nn.Module]] = {}
        self.blocks: set[nn.Module] = set()
        self.ends(model)

    def ends(self, module: nn.Module) -> Ends:
        """Layers whose output a module may return as it is."""
        if module in self._ends:
            return self._ends[module]
        self._ends[module] = {}
        if is_norm(module):
            self._ends[module] = {module: False}
            return self._ends[module]
        for child in module.children():
            self.ends(child)
        if any(isinstance(m, _L1BatchNorm) for m in module.modules()):
            self._ends[module] = self._look_at(module)
        return self._ends[module]

    def _look_at(self, block: nn.Module) -> Ends:
        cls = original_class(block)
        try:
            if "forward" in block.__dict__:
                raise NoSourceError("its forward was replaced")
            if hasattr(block, "parametrizations"):
                raise NoSourceError("it is parametrized")
            plan = class_plan(cls)
            if not plan.is_still(cls):
                raise NoSourceError("its class was changed after a model of it was fused")
        except NoSourceError as error:
            for norm in self._inside(block):
                self._reasons.setdefault(norm, f"{cls.__name__}: {error}")
            return {}
        ends = self._sequence(block) if is_sequential(cls) else self._sites(block, plan)
        for norm in ends:
            self._through.setdefault(norm, set()).add(block)
        if ends and is_watched(block):
            for norm in ends:
                self._reasons[norm] = "a hook watches its output"
            return {}
        return ends

    def _inside(self, block: nn.Module) -> list[nn.Module]:
        found: dict[nn.Module, None] = {}
        for child in block.children():
            found.update(dict.fromkeys(self._ends.get(child) or {}))
            if type(child) in (nn.ModuleList, nn.ModuleDict):  # never called themselves
                found.update(dict.fromkeys(self._inside(child)))
        return list(found)

    def _sequence(self, block: nn.Module) -> Ends:
        before: Ends = {}
        for child in block.children():
            if not is_identity(child):
                self._take(block, child, before)
                before = dict.fromkeys(self._ends.get(child, {}), False)
        return before

    def _take(self, block: nn.Module, f: object, before: Ends) -> None:
        name = activation_of(f)
        for norm, added in before.items():
            if name is not None and not is_watched(norm):
                middle = " → add" if added else ""
                self._fused[norm] = (
                    f"{type(norm).__name__}{middle} → {_TITLES[split(name)[0].name]}"
                )
                self.blocks |= {block, *self._through.get(norm, ())}
            elif name is None:
                text = getattr(f, "__name__", None) or (
                    f if isinstance(f, str) else type(f).__name__
                )
                watched = isinstance(f, nn.Module) and is_watched(f)
                self._reasons[norm] = f"no activation that a layer computes follows, but {text}" + (
                    " with a hook" if watched else ""
                )

    def _sites(self, block: nn.Module, plan: Plan) -> Ends:
        for method in (plan.forward, *plan.methods.values()):
            for text, origins in method.sites:
                f = _resolve(block, method, text)
                before = self._origins(block, method, origins)
                if before and f is not None and not is_identity(f):
                    self._take(block, f, before)
        return self._origins(block, plan.forward, plan.ends)

    def _origins(
        self,
        block: nn.Module,
        method: Method,
        origins: Origins,
        through: frozenset[str] = frozenset(),
    ) -> Ends:
        found: Ends = {}
        for text, added in origins:
            if text in through:  # identities that hand on to each other in a loop
                continue
            module = _resolve(block, method, text)
            if is_identity(module):
                for site, inner in method.sites:
                    if site == text:
                        found.update(self._origins(block, method, inner, through | {text}))
            elif isinstance(module, nn.Module):
                found.update({norm: added or more for norm, more in self.ends(module).items()})
        return found

    def report(self) -> tuple[list[Item], list[Item]]:
        """What is fused in ``blocks``, and what not."""
        fused, missed = [], []
        for path, norm in self._model.named_modules():
            if norm in self._fused:
                fused.append(Item(path, self._fused[norm]))
            elif isinstance(norm, _L1BatchNorm) and not _has_own(norm):
                missed.append(Item(path, self._reason(norm)))
        return fused, missed

    def _reason(self, norm: nn.Module) -> str:
        if not is_norm(norm):
            return f"{type(norm).__name__} takes no activation"
        if is_watched(norm):
            return "a hook watches its output"
        if norm in self._reasons:
            return self._reasons[norm]
        if norm in self._ends.get(self._model, {}):
            return "its output leaves the model"
        return "no activation is seen to take its output, and nothing else to see it"


def is_norm(module: object) -> bool:
    """Whether an activation can move into this layer."""
    if not isinstance(module, _L1BatchNorm) or type(module) not in NORMS:
        return False
    return type(module) is not L1BatchNormAct2d or (
        is_identity(module.drop) and is_identity(module.act)
    )


def _has_own(norm: nn.Module) -> bool:
    return type(norm) is L1BatchNormAct2d and not is_norm(norm)


def _resolve(block: nn.Module, method: Method, text: str) -> object:
    """The object that a callee's source stands for; of a tensor's method the name."""
    first, *rest = text.split(".")
    if not first:
        return rest[0]
    if first == method.code.co_varnames[0]:
        at: object = block
    else:
        at = method.function.__globals__.get(first)
    for part in rest:
        at = _held(at, part)
    return at


def _held(holder: object, name: str) -> object:
    """What an object holds under a name; no code of the user's runs, as in a property."""
    state = getattr(holder, "__dict__", {})
    if name in state:
        return state[name]
    if isinstance(holder, nn.Module) and name in holder._modules:
        return holder._modules[name]
    found = inspect.getattr_static(type(holder), name, None)
    return None if isinstance(found, property) else found
