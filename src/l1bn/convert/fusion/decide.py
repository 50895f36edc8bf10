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
from typing import Any

import torch
from torch import Tensor, nn

from l1bn.activation import Activation
from l1bn.functional import l1_batch_norm_pair
from l1bn.nn import L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d, L1BatchNormAct2d
from l1bn.nn.batchnorm import _L1BatchNorm
from l1bn.nn.fusable import activation_of, is_identity, is_watched
from l1bn.ops.tracing import is_traced

#: Name, in the class of a rewritten block, of the forward that may return a promise.
OPEN = "_l1bn_open"
#: What says that there is no promise, and that nothing ran.
NOTHING = object()

_FORWARD = _L1BatchNorm.forward
#: Layers that an activation can move into, with the forward that they must have.
NORMS = {
    kind: kind.forward for kind in (L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d, L1BatchNormAct2d)
}
#: Layers that touch nothing but their input and their own parameters: they may run first.
_QUIET = {
    kind: kind.forward
    for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.AvgPool2d, nn.MaxPool2d)
}


class Promise:
    """``norm(x)``, or ``norm(x) + residual``, that nobody has seen yet.

    Attributes:
        x: the layer's input, ``None`` once the promise is kept or computed.
        earlier: promises given before; where they are not kept, they are computed first.
        result: the value, once somebody had to see it.
    """

    __slots__ = ("earlier", "norm", "residual", "result", "x")

    def __init__(self, norm: _L1BatchNorm, x: Tensor, earlier: tuple[Any, ...]) -> None:
        self.norm = norm
        self.x: Tensor | None = x
        self.earlier = earlier
        self.residual: Any = None
        self.result: Tensor | None = None


def call(f: Any, x: Any, *earlier: Any, _l1bn_more: tuple[Any, ...] = (), **options: Any) -> Any:
    """Compute ``f(x, *more, **options)``; the output of a layer may come back as a promise.

    Args:
        f: what is called; a string for a method of x.
        x: its argument.
        earlier: variables that may hold promises.
        _l1bn_more: the call's other arguments.
        options: the call's keywords.
    """
    if type(x) is Promise:
        if x.result is None:
            activation = activation_of(f, _l1bn_more, options)
            if activation is not None:
                y = _keep(x, activation)
                if y is not None:
                    return y
            elif is_identity(f) and not _l1bn_more and not options:
                return x
        x = value(x)
    elif type(x) is Tensor and type(f) is not str and not _l1bn_more and not options:
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
    return getattr(x, f)(**options) if type(f) is str else f(x, *_l1bn_more, **options)


def finish(f: Any, x: Any, *earlier: Any, **options: Any) -> Any:
    """Compute ``f(x)`` where no promise may come back."""
    return value(call(f, x, *earlier, **options))


def add(a: Any, b: Any, inplace: bool = False) -> Any:
    """Compute ``a + b`` or ``a += b``; with a promise it may stay one."""
    if type(a) is Promise and _takes(a, b):
        a.residual = b
        return a
    if type(b) is Promise and not inplace and _takes(b, a):
        b.residual = a
        return b
    return (operator.iadd if inplace else operator.add)(value(a), value(b))


def value(x: Any) -> Any:
    """The tensor that a promise stands for; anything else is itself."""
    if type(x) is not Promise:
        return x
    if x.result is None:
        settle(*x.earlier)
        x.result = x.norm(x.x)
        residual, x.residual, x.x = x.residual, None, None
        if residual is not None:  # a promise given after this one, or a tensor
            x.result = x.result + value(residual)
    return x.result


def settle(*promises: Any) -> None:
    """Compute what was promised, before something runs that could notice."""
    for promise in promises:
        if type(promise) is Promise and promise.x is not None:
            value(promise)


def _promise(f: Any, x: Tensor, earlier: tuple[Any, ...]) -> Any:
    kind = type(f)
    forward = NORMS.get(kind)
    if forward is not None:
        return Promise(f, x, earlier) if kind.forward is forward and _may(f, x) else NOTHING
    opened = kind.__dict__.get(OPEN)
    if opened is not None and not is_watched(f) and is_plain_run():
        return opened(f, x, earlier)
    return NOTHING


def is_plain_run() -> bool:
    """Whether gradients are recorded, and neither a tracer nor a mode looks on."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not is_traced()
        and not torch._C._len_torch_function_stack()
    )


def _may(norm: Any, x: Tensor) -> bool:
    """Whether a layer is today what can be fused, and something is gained by it."""
    if not torch.is_grad_enabled() or is_watched(norm) or norm.override is not None:
        return False
    parameters = norm._parameters
    weight = parameters.get("weight")
    if not (x.requires_grad or (weight is not None and weight.requires_grad)):
        return False
    if type(norm) is L1BatchNormAct2d and not (is_identity(norm.drop) and is_identity(norm.act)):
        return False
    # Transforms and dispatch modes are the registry's to see. A function mode sees calls, and may
    # be entered within a forward, which ``is_plain_run`` has let through.
    return not torch._C._len_torch_function_stack()


def _is_quiet(f: Any) -> bool:
    return is_identity(f) or (
        _QUIET.get(type(f)) is not None and type(f).forward is _QUIET[type(f)] and not is_watched(f)
    )


def _takes(promise: Promise, other: Any) -> bool:
    """Whether a promise can take a residual."""
    x = promise.x
    if promise.result is not None or promise.residual is not None or x is None:
        return False
    if type(other) is Promise and other.result is None:
        return other.residual is None and other is not promise and _alike(other.x, x)
    return _alike(value(other), x) and _is_kept(value(other))


def _alike(residual: Any, x: Tensor) -> bool:
    return (
        type(residual) is Tensor
        and residual.shape == x.shape
        and residual.dtype == x.dtype
        and residual.device == x.device
    )


def _is_kept(residual: Tensor) -> bool:
    """Whether its producer keeps it for backward, so that it cannot be edited in place anyway."""
    node: Any = residual.grad_fn
    return node is not None and (
        getattr(node, "keeps_output", False) or node.name() == "ReluBackward0"
    )


def _keep(promise: Promise, activation: Activation) -> Tensor | None:
    """Compute a promise with its activation in one call, ``None`` where that is not possible."""
    other, x = promise.residual, promise.x
    if x is None or not torch.is_grad_enabled():
        return None
    if type(other) is Promise and other.result is None:
        if _pairs(promise, other):
            y = _pair(promise, other, activation)
        else:
            first, last = (promise, other) if promise in other.earlier else (other, promise)
            promise.residual = None
            last.residual = value(first)
            return _keep(last, activation)
    else:
        settle(*promise.earlier)
        y = promise.norm._normalize(x, activation, value(other))
    promise.x = promise.residual = None
    return y


def _pairs(a: Promise, b: Promise) -> bool:
    return (
        a.norm is not b.norm
        and a.norm.backend == b.norm.backend
        and a.norm.running_mean is not b.norm.running_mean
    )


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
