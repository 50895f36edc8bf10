"""The decision, made while a forward runs: what can be one call becomes one.

A rewritten forward calls ``call`` where its source says ``f(x)``, ``add`` where it says
``a + b`` and ``value`` where it reads a variable. A normalization layer's output then comes
back as a ``Promise``, which an activation completes in one call. Whatever else meets a promise
gets its value, computed as written: first the layer, then the addition.

The rewriting (``l1bn.convert.fusion.rewrite``) makes sure that a promise goes nowhere else,
and that nothing which could notice runs between the place where it is given and where it is kept.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TypeGuard, final

from torch import Tensor, is_grad_enabled, nn
from torch._C import _len_torch_function_stack

from l1bn.activation import Activation
from l1bn.functional import l1_batch_norm_pair
from l1bn.nn import L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d, L1BatchNormAct2d
from l1bn.nn.batchnorm import _L1BatchNorm
from l1bn.nn.fusable import NO_OPTIONS, activation_of, is_identity, is_watched
from l1bn.ops.registry import keeps_its_output

#: Name, in the class of a rewritten block, of the forward that may return a promise.
OPEN = "_l1bn_open"
#: What says that there is no promise, and that nothing ran.
NOTHING = object()

#: Layers that an activation can move into, with the forward that they must have.
NORMS: dict[type[_L1BatchNorm], object] = {
    kind: kind.forward for kind in (L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d, L1BatchNormAct2d)
}
#: Layers that touch nothing but their input and their own parameters: they may run first.
_QUIET: dict[type[nn.Module], object] = {
    kind: kind.forward
    for kind in (
        nn.Identity,
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.Linear,
        nn.AvgPool2d,
        nn.MaxPool2d,
    )
}


@final
class Promise:
    """``norm(x)``, or ``norm(x) + residual``, that nobody has seen yet.

    Attributes:
        x: the layer's input, ``None`` once the promise is kept or computed.
        earlier: promises given before; where they are not kept, they are computed first.
        result: the value, once somebody had to see it.
    """

    __slots__ = ("earlier", "norm", "residual", "result", "x")

    def __init__(self, norm: _L1BatchNorm, x: Tensor, earlier: tuple[object, ...]) -> None:
        self.norm = norm
        self.x: Tensor | None = x
        self.earlier = earlier
        self.residual: Promise | Tensor | None = None
        self.result: Tensor | None = None

    def compute(self) -> Tensor:
        """The value, as it was written: first the layer, then the addition."""
        if self.result is None:
            settle(*self.earlier)  # which may compute this one: one of them may add it
        y = self.result
        if y is None:
            self.result = y = self.norm(self.x)
            residual, self.residual, self.x = self.residual, None, None
            if residual is not None:  # a promise given after this one, or a tensor
                self.result = y = y + _value(residual)
        return y


def call(
    f: str | Callable[..., object],
    x: object,
    earlier: tuple[object, ...] = (),
    more: tuple[object, ...] = (),
    options: Mapping[str, object] = NO_OPTIONS,
) -> object:
    """Compute ``f(x, *more, **options)``; the output of a layer may come back as a promise.

    Args:
        f: what is called; a string for a method of x.
        x: its argument.
        earlier: variables that may hold promises.
        more: the call's other arguments.
        options: the call's keywords.
    """
    if type(x) is Promise:
        if x.result is None:
            activation = activation_of(f, more, options)
            if activation is not None:
                y = _keep(x, activation)
                if y is not None:
                    return y
            elif is_identity(f) and not more and not options:
                return x
        x = x.compute()
    elif type(x) is Tensor and not isinstance(f, str) and not more and not options:
        promise = _promise(f, x, earlier)
        if promise is not NOTHING:
            return promise
        if earlier and _is_quiet(f):
            try:
                return f(x)
            except BaseException:
                settle(*earlier)
                raise
    settle(*earlier)
    return getattr(x, f)(**options) if isinstance(f, str) else f(x, *more, **options)


def finish(
    f: str | Callable[..., object],
    x: object,
    earlier: tuple[object, ...] = (),
    more: tuple[object, ...] = (),
    options: Mapping[str, object] = NO_OPTIONS,
) -> object:
    """Compute ``f(x, *more, **options)`` where no promise may come back."""
    return value(call(f, x, earlier, more, options))


def add(a: object, b: object, inplace: bool = False) -> object:
    """Compute ``a + b`` or ``a += b``; with a promise it may stay one."""
    if type(a) is Promise and _take(a, b):
        return a
    if type(b) is Promise and not inplace and _take(b, a):
        return b
    return (operator.iadd if inplace else operator.add)(value(a), value(b))


def value(x: object) -> object:
    """The tensor that a promise stands for; anything else is itself."""
    return x.compute() if type(x) is Promise else x


def _value(x: Promise | Tensor) -> Tensor:
    return x.compute() if type(x) is Promise else x


def settle(*promises: object) -> None:
    """Compute what was promised, before something runs that could notice."""
    for promise in promises:
        if _is_due(promise):
            value(promise)


def _promise(f: Callable[..., object], x: Tensor, earlier: tuple[object, ...]) -> object:
    """What ``f(x)`` stands for before it runs, or ``NOTHING``.

    A layer's output where the layer is today what can be fused, and something is gained by it.
    Transforms and dispatch modes are the registry's to see. A function mode sees calls, and may be
    entered within a forward, as a region without gradients may.
    """
    if not isinstance(f, _L1BatchNorm):
        opened = type(f).__dict__.get(OPEN)
        return NOTHING if opened is None else opened(f, x, earlier)
    if (
        NORMS.get(type(f)) is type(f).forward
        and is_grad_enabled()
        and not _len_torch_function_stack()
        and not is_watched(f)
        and f.override is None
        and (x.requires_grad or _learns(f))
        and (type(f) is not L1BatchNormAct2d or (is_identity(f.drop) and is_identity(f.act)))
    ):
        return Promise(f, x, earlier)
    return NOTHING


def _learns(norm: _L1BatchNorm) -> bool:
    weight = norm._parameters.get("weight")
    return weight is not None and weight.requires_grad


def _is_quiet(f: object) -> bool:
    return isinstance(f, nn.Module) and type(f).forward is _QUIET.get(type(f)) and not is_watched(f)


def _take(promise: Promise, other: object) -> bool:
    """Let a promise take a residual, where it can."""
    x = promise.x
    if promise.result is not None or promise.residual is not None or x is None:
        return False
    if type(other) is Promise and other.result is None:
        if other is not promise and other.residual is None and _alike(other.x, x):
            promise.residual = other
    else:
        known = value(other)
        if _alike(known, x) and _is_kept(known):
            promise.residual = known
    return promise.residual is not None


def _alike(residual: object, x: Tensor) -> TypeGuard[Tensor]:
    return (
        type(residual) is Tensor
        and residual.shape == x.shape
        and residual.dtype == x.dtype
        and residual.device == x.device
    )


def _is_kept(residual: Tensor) -> bool:
    """Whether its producer keeps it for backward, so that it cannot be edited in place anyway."""
    node = residual.grad_fn
    return node is not None and (keeps_its_output(node) or node.name() == "ReluBackward0")


def _keep(promise: Promise, activation: Activation) -> Tensor | None:
    """Compute a promise with its activation in one call, ``None`` where that is not possible."""
    other, x = promise.residual, promise.x
    if x is None or not is_grad_enabled():
        return None
    if type(other) is Promise and other.result is None:
        first, last = (promise, other) if _is_in(promise, other.earlier) else (other, promise)
        if _pairs(first, last):
            y = _pair(promise, other, activation)
        else:
            promise.residual = None
            last.residual = first.compute()
            return _keep(last, activation)
    else:
        if promise.earlier:
            settle(*promise.earlier)
        y = promise.norm._normalize(x, activation, None if other is None else _value(other))
    promise.x = promise.residual = None
    return y


def _pairs(first: Promise, last: Promise) -> bool:
    """Whether two layers can be one call: they are apart, and no third one is due in between."""
    before = (first, *first.earlier)
    return (
        first.norm is not last.norm
        and first.norm.backend == last.norm.backend
        and first.norm.running_mean is not last.norm.running_mean
        and not any(_is_due(p) and not _is_in(p, before) for p in last.earlier)
    )


def _is_in(promise: object, values: tuple[object, ...]) -> bool:
    """By identity: values may be of any type, with an equality of their own."""
    return any(promise is v for v in values)


def _is_due(x: object) -> bool:
    return type(x) is Promise and x.x is not None


def _pair(a: Promise, b: Promise, activation: Activation) -> Tensor:
    settle(*(p for p in (*a.earlier, *b.earlier) if p is not a and p is not b))
    assert a.x is not None
    assert b.x is not None
    branches = a.norm._branch(a.x), b.norm._branch(b.x)
    y = l1_batch_norm_pair(*branches, activation, a.norm.backend)
    a.norm._count()
    b.norm._count()
    b.x = None
    return y
