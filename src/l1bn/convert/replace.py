"""Which layer becomes which, and the change of class that does it.

A layer is converted by changing its class. It stays the same Python object with the same
parameters and buffers, so everything that refers to it keeps working: optimizers, hooks,
parametrizations, modules used in several places, a layer that is the whole model.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from l1bn.convert.record import recorded
from l1bn.model.layers import LAYERS, bare_type
from l1bn.model.report import Item
from l1bn.nn import (
    L1BatchNorm1d,
    L1BatchNorm2d,
    L1BatchNorm3d,
    L1BatchNormAct2d,
    L1SyncBatchNorm,
    L1SyncBatchNormAct2d,
)
from l1bn.nn.batchnorm import _L1BatchNorm
from l1bn.nn.timm_base import join_timm

_TO_L1: dict[type[nn.Module], type[_L1BatchNorm]] = {
    nn.BatchNorm1d: L1BatchNorm1d,
    nn.BatchNorm2d: L1BatchNorm2d,
    nn.BatchNorm3d: L1BatchNorm3d,
    nn.SyncBatchNorm: L1SyncBatchNorm,
}
_TO_BN: dict[type[nn.Module], type[nn.Module]] = {l1: bn for bn, l1 in _TO_L1.items()}
_TO_SYNC: dict[type[nn.Module], type[nn.Module]] = {
    L1BatchNorm1d: L1SyncBatchNorm,
    L1BatchNorm2d: L1SyncBatchNorm,
    L1BatchNorm3d: L1SyncBatchNorm,
    L1BatchNormAct2d: L1SyncBatchNormAct2d,
}
#: What Lightning makes when it takes synchronisation away: any dimensions, and nothing of its own.
_LIGHTNINGS = "_BatchNormXd"
_BY_NAME = {cls.__name__: cls for cls in LAYERS}
_TIMM_MODULE = "timm.layers.norm_act"
_TIMM_NAMES: dict[type[_L1BatchNorm], str] = {
    L1BatchNormAct2d: "BatchNormAct2d",
    L1SyncBatchNormAct2d: "SyncBatchNormAct",
}

Change = tuple[str, nn.Module, type[nn.Module]]
Plan = tuple[list[Change], list[Item]]
_SUBCLASS = "a subclass of an L1BN layer, which may do more"


def become(module: nn.Module, cls: type[nn.Module]) -> None:
    """Change a layer's class and nothing else."""
    if parametrize.is_parametrized(module):
        # A class of this module's own holds the parametrized properties: make one on the new base.
        own = {k: v for k, v in vars(type(module)).items() if k not in ("__dict__", "__weakref__")}
        cls = type(f"Parametrized{cls.__name__}", (cls,), own)
    module.__class__ = cls


def plan_to_l1(model: nn.Module) -> Plan:
    """Layers that become L1BN with their new class, and those left with the reason."""
    table, known = {**_TO_L1, **_timm_pairs()}, recorded(model)

    def choose(module: nn.Module, cls: type[nn.Module]) -> type[nn.Module] | str | None:
        found = table.get(cls) or _as_it_was(module, known)
        if found is None and (isinstance(module, _BatchNorm) or "BatchNorm" in cls.__name__):
            return _why_not_to_l1(module, cls)
        return found

    return _plan(model, choose)


def is_convertible(module: nn.Module, known: dict[int, str]) -> bool:
    """Whether ``plan_to_l1`` would take a layer, where ``known`` is what the model remembers."""
    tables = {**_TO_L1, **_timm_pairs()}
    return bare_type(module) in tables or _as_it_was(module, known) is not None


def _as_it_was(module: nn.Module, known: dict[int, str]) -> type[_L1BatchNorm] | None:
    """The class that a layer had, where a tool left an anonymous one in its place."""
    if type(module).__name__ == _LIGHTNINGS and type(module).__base__ is _BatchNorm:
        return _BY_NAME.get(known.get(id(module), ""))
    return None


def plan_to_bn(model: nn.Module) -> Plan:
    """Layers that become BatchNorm with their new class, and those left with the reason."""

    def choose(module: nn.Module, cls: type[nn.Module]) -> type[nn.Module] | str | None:
        if not isinstance(module, _L1BatchNorm):
            return None
        if cls in _TIMM_NAMES:
            timm_class = _timm_class(_TIMM_NAMES[cls], load=True)
            return timm_class or "its counterpart needs timm: install it"
        return _TO_BN.get(cls, _SUBCLASS)

    return _plan(model, choose)


def plan_to_sync(model: nn.Module) -> Plan:
    """Layers that become synchronised ones, and those left with the reason."""

    def choose(module: nn.Module, cls: type[nn.Module]) -> type[nn.Module] | str | None:
        if cls in _TO_SYNC.values() or not isinstance(module, _BatchNorm):
            return None
        if not isinstance(module, _L1BatchNorm):
            return "not an L1BN layer, run convert_ first"
        return _TO_SYNC.get(cls, _SUBCLASS)

    return _plan(model, choose)


def _plan(
    model: nn.Module, choose: Callable[[nn.Module, type[nn.Module]], type[nn.Module] | str | None]
) -> Plan:
    """Ask of every module and its class: the new class, why there is none, or ``None``."""
    changes: list[Change] = []
    left: list[Item] = []
    for path, module in model.named_modules():
        cls = bare_type(module)
        found = choose(module, cls)
        if isinstance(found, str):
            left.append(Item(path, f"{cls.__name__}: {found}"))
        elif found is not None:
            changes.append((path, module, found))
    return changes, left


def describe(module: nn.Module, cls: type[nn.Module]) -> str:
    """The text of a change, such as ``BatchNorm2d → L1BatchNorm2d``."""
    return f"{bare_type(module).__name__} → {cls.__name__}"


def _why_not_to_l1(module: nn.Module, cls: type[nn.Module]) -> str:
    if isinstance(module, _L1BatchNorm):
        return "is L1BN already"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "has no parameters yet: run the model once, then convert"
    if not isinstance(module, _BatchNorm):
        return "not one of PyTorch's batch normalization layers"
    base = next(base.__name__ for base in cls.__mro__[1:] if base.__module__.startswith("torch"))
    return f"a subclass of {base}, which may do more"


def _timm_class(name: str, load: bool = False) -> type[nn.Module] | None:
    """The layer of timm, where timm is loaded (or can be loaded)."""
    module = sys.modules.get(_TIMM_MODULE)
    if module is None and load:
        try:
            module = importlib.import_module(_TIMM_MODULE)
        except ImportError:
            return None
    return getattr(module, name, None)


def _timm_pairs() -> dict[type[nn.Module], type[_L1BatchNorm]]:
    join_timm(L1BatchNormAct2d, L1BatchNorm2d)
    found = {_timm_class(name): ours for ours, name in _TIMM_NAMES.items()}
    return {theirs: ours for theirs, ours in found.items() if theirs is not None}
