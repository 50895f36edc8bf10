"""A block that runs its own forward, rewritten.

The block keeps its parts and their names. Only its class changes, to a subclass of its own class
that is pickled and copied as that class.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
from collections.abc import Callable
from operator import index
from typing import SupportsIndex

from torch import Tensor, nn

from l1bn.convert.fusion import sequential, turned
from l1bn.convert.fusion.decide import NOTHING, OPEN, Frame
from l1bn.convert.fusion.plan import Method, Plan, method_of, plan_for
from l1bn.convert.fusion.source import NoSourceError
from l1bn.convert.fusion.turned import ORIGINAL
from l1bn.convert.replace import become
from l1bn.nn.fusable import is_watched


class FusedBlock:
    """Mixin of the classes made by ``fused_class``."""

    def __init_subclass__(cls, **_: object) -> None:
        """Not the original class's: to whoever counts its subclasses this is none."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[object, ...]:
        # The class has no importable name: say how to make it from the original one.
        reduced = super().__reduce_ex__(max(index(protocol), 2))
        if isinstance(reduced, str) or reduced[0] is not copyreg.__newobj__:  # type: ignore[attr-defined]
            return reduced
        return _new, (original_class(self), *reduced[1][1:]), *reduced[2:]

    def __prepare_scriptable__(self) -> nn.Module:
        # torch.jit.script compiles source and takes this module instead: the same, unfused.
        plain: nn.Module = object.__new__(original_class(self))
        plain.__dict__.update(self.__dict__)
        return plain


def _new(cls: type, *args: object) -> nn.Module:
    with contextlib.suppress(NoSourceError):
        cls = fused_class(cls)
    new: Callable[..., nn.Module] = cls.__new__
    return new(cls, *args)


def is_fused(block: object) -> bool:
    """Whether the block's class is one made by ``fused_class``, or parametrized on top."""
    return isinstance(block, FusedBlock)


def original_class(block: object) -> type:
    """Class of a module, for a fused block the one that it had before."""
    cls: type = getattr(block, ORIGINAL, type(block))
    return cls


def is_sequential(cls: type) -> bool:
    """Whether a class runs as nn.Sequential does."""
    return issubclass(cls, nn.Sequential) and (
        cls.forward is nn.Sequential.forward and cls.__iter__ is nn.Sequential.__iter__
    )


@functools.cache
def class_plan(cls: type) -> Plan:
    """The plan of a class.

    Raises:
        NoSourceError: with the reason.
    """
    if is_sequential(cls):
        return Plan(method_of(nn.Sequential.forward, sequential.forward), frozenset(), {})
    return plan_for(cls)


@functools.cache
def fused_class(cls: type) -> type[nn.Module]:
    """Subclass of a block's class that runs its rewritten forward.

    Raises:
        NoSourceError: with the reason.
    """
    plan = class_plan(cls)
    base: type[nn.Module] = cls

    def opened(self: nn.Module, x: Tensor, frame: Frame) -> object:
        if is_watched(self) or not plan.forward.serves(base.forward):
            return NOTHING
        if self.training:
            turned.tell(self)
        return frame.open(plan.forward.run, self, x)

    namespace = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "forward": _override(cls, "forward", plan.forward),
        **{name: _override(cls, name, method) for name, method in plan.methods.items()},
        OPEN: opened,
        ORIGINAL: cls,
    }
    return type(cls.__name__, (FusedBlock, cls), namespace)


def _override(cls: type, name: str, method: Method) -> Callable[..., object]:
    """The method that runs the rewritten one while the class has the one it was made from."""

    @functools.wraps(method.function)
    def run(self: nn.Module, /, *args: object, **kwargs: object) -> object:
        if method.serves(getattr(cls, name)):
            if self.training:
                turned.tell(self)
            frame = Frame()
            try:
                y = method.run(self, *args, _l1bn=frame, **kwargs)
            except BaseException:
                frame.settle()
                raise
            return frame.close(y)
        mine = next(c for c in type(self).__mro__ if c.__dict__.get(ORIGINAL) is cls)
        return getattr(super(mine, self), name)(*args, **kwargs)

    return run


def install(block: nn.Module) -> None:
    """Let a block run its rewritten forward."""
    if not is_fused(block):
        cls: type = type(block)
        block.__class__ = fused_class(cls)
    turned.watch(block)


def remove(block: nn.Module) -> None:
    """Give a block its own class back."""
    become(block, original_class(block))
    turned.watch(block)
