"""The decision, made while a forward runs: what can be one call becomes one.

A rewritten forward is given a ``Frame``. It calls ``call`` where its source says ``f(x)``, ``add``
where it says ``a + b`` and ``value`` where it reads a variable. A normalization layer's output then
comes back as a ``Promise``, which an activation completes in one call. Whatever else meets a
promise gets its value, computed as written: first the layer, then the addition.

The frame keeps the layers that have not run in the order in which they were called, so that they
run in that order. The rewriting (``l1bn.convert.fusion.rewrite``) makes sure that a promise goes
nowhere else, and that they run (``settle``) before anything that could notice.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import TypeGuard, final

from torch import Tensor, is_grad_enabled, nn
from torch._C import _len_torch_function_stack

from l1bn.activation import Activation, clips
from l1bn.functional import l1_batch_norm_pair
from l1bn.nn import L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d, L1BatchNormAct2d
from l1bn.nn.batchnorm import _L1BatchNorm
from l1bn.nn.fusable import NO_OPTIONS, activation_of, is_identity, is_watched
from l1bn.ops.registry import keeps_its_output

#: Name, in the class of a rewritten block, of what runs its forward in the frame of its caller.
OPEN = "_l1bn_open"
#: What that gives where the block must be called.
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
        norm: the layer.
        x: its input, ``None`` once the layer ran.
        residual: what is added: a tensor, or a promise given before this one.
        leads: whether the layer is the sum's first operand, which says how the sum lies in memory.
        y: the value, once somebody had to see it.
    """

    __slots__ = ("leads", "norm", "residual", "x", "y")

    def __init__(self, norm: _L1BatchNorm, x: Tensor) -> None:
        self.norm = norm
        self.x: Tensor | None = x
        self.residual: Promise | Tensor | None = None
        self.leads = True
        self.y: Tensor | None = None


@final
class Frame:
    """A forward that runs, with the rewritten ones that it calls: what has been promised there."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: list[Promise] = []  # whose layers have not run, in the order of their calls

    def open(self, forward: Callable[..., object], block: nn.Module, x: Tensor) -> object:
        """Call a rewritten forward in this frame: what it returns may be a promise.

        Whatever else it promised has run when it returns, and all of it when it raises.
        """
        before = tuple(self._open)
        try:
            y = forward(block, x, _l1bn=self)
        except BaseException:
            self.settle()
            raise
        if self._open:
            self.settle(y, *before)
        return y

    def call(
        self,
        f: Callable[..., object],
        x: object,
        more: tuple[object, ...] = (),
        options: Mapping[str, object] = NO_OPTIONS,
    ) -> object:
        """Compute ``f(x, *more, **options)``; the output of a layer may come back as a promise.

        Args:
            f: what is called.
            x: its argument.
            more: the call's other arguments.
            options: the call's keywords.
        """
        if type(x) is Promise:
            if x.x is not None and not isinstance(f, str):  # which is for ``method``
                activation = activation_of(f, more, options)
                if activation is not None:
                    if x.leads or self._lies_as_written(x, x.x, activation):
                        return self._keep(x, x.x, activation)
                elif is_identity(f) and not more and not options:
                    return x
            x = self.value(x)
        if type(x) is Tensor and not more and not options:
            y = self._promise(f, x)
            if y is not NOTHING:
                return y
        if self._open:
            self.settle()
        return f(x, *more, **options)

    def method(self, name: str, x: object) -> object:
        """Compute ``x.name()``, where the name is a tensor's method that is an activation."""
        if type(x) is Promise and x.x is not None:
            activation = activation_of(name)
            assert activation is not None  # the source says so
            if x.leads or self._lies_as_written(x, x.x, activation):
                return self._keep(x, x.x, activation)
        x = self.value(x)
        self.settle()
        return getattr(x, name)()

    def _promise(self, f: Callable[..., object], x: Tensor) -> object:
        """What ``f(x)`` gives without settling, ``NOTHING`` where that has to be first."""
        if isinstance(f, _L1BatchNorm):
            if not _may_wait(f, x):
                return NOTHING
            promise = Promise(f, x)
            self._open.append(promise)
            return promise
        opened = type(f).__dict__.get(OPEN)
        if opened is not None:
            return opened(f, x, self)
        return f(x) if self._open and _is_quiet(f) and not self._moves(x) else NOTHING

    def _moves(self, x: Tensor) -> bool:
        """Whether a tensor is one that a waiting layer is to move: its running statistics."""
        if x.requires_grad:
            return False
        memory = x.untyped_storage()._cdata
        buffers = [b for p in self._open for b in p.norm._buffers.values() if b is not None]
        return any(b.untyped_storage()._cdata == memory for b in buffers)

    def add(self, a: object, b: object, inplace: bool = False) -> object:
        """Compute ``a + b`` or ``a += b``; with a promise it may stay one."""
        if type(a) is Promise and type(b) is Promise and self._join(a, b):
            return a if b is a.residual else b
        if self._take(a, b, True):
            return a
        if not inplace and self._take(b, a, False):
            return b
        a, b = self.value(a), self.value(b)
        if inplace or type(a) is not Tensor or type(b) is not Tensor:
            self.settle()
        return (operator.iadd if inplace else operator.add)(a, b)

    def close(self, y: object) -> object:
        """What the forward of this frame returns. Whatever was promised has run then."""
        if self._open:
            self.settle()
        return self.value(y) if type(y) is Promise else y

    def value(self, x: object) -> object:
        """The tensor that a promise stands for; anything else is itself."""
        if type(x) is not Promise:
            return x
        if x.x is not None:
            self._run(self._open.index(x) + 1)
        return x.y

    def settle(self, *first: object) -> None:
        """Run the layers that were called, before something runs that could notice.

        Args:
            first: variables that are read before that; what was promised last may wait for it.
        """
        count = len(self._open)
        if count:
            waiting = [*first, *(p.residual for p in first if type(p) is Promise)]
            while count and any(self._open[count - 1] is p for p in waiting):
                count -= 1
            self._run(count)

    def _run(self, count: int) -> None:
        """Run the first layers in the order of their calls, then make the additions to them."""
        due, later = self._open[:count], self._open[count:]
        self._open = []  # where a layer raises, those called after it never run
        for promise in due:
            promise.y, promise.x = promise.norm(promise.x), None
        for promise in due:
            if promise.residual is not None:
                other, promise.residual = _tensor(promise.residual), None
                operands = (promise.y, other) if promise.leads else (other, promise.y)
                promise.y = operator.add(*operands)
        self._open = later

    def _join(self, a: Promise, b: Promise) -> bool:
        """Let the later of two promises take the other as its residual, where it can."""
        if a is b or a.x is None or not _alike(b.x, a.x):
            return False
        if a.residual is not None or b.residual is not None:
            return False
        first, last = (a, b) if self._open.index(a) < self._open.index(b) else (b, a)
        last.residual, last.leads = first, last is a
        return True

    def _take(self, promise: object, other: object, leads: bool) -> bool:
        """Let a promise take a tensor as its residual, where it can."""
        if type(promise) is not Promise:
            return False
        known = self.value(other)  # which may run this one: it may have been called before
        if promise.x is None or promise.residual is not None:
            return False
        if _alike(known, promise.x) and _is_kept(known):
            promise.residual, promise.leads = known, leads
        return promise.residual is not None

    def _lies_as_written(self, promise: Promise, x: Tensor, activation: Activation) -> bool:
        """Whether what one call returns lies in memory as the sum of another one and this would."""
        other = promise.residual
        if type(other) is Promise:
            if self._are_one_call(other, promise, activation):
                return True
            other = other.y if other.x is None else other.x
        return isinstance(other, Tensor) and other.stride() == x.stride()

    def _keep(self, promise: Promise, x: Tensor, activation: Activation) -> Tensor:
        """Compute a promise with its activation in one call, after what was called before."""
        if len(self._open) == 1 and promise.residual is None:  # nearly always; as below
            self._open.clear()
            promise.x = None
            return promise.norm._normalize(x, activation)
        before, other = self._open.index(promise), promise.residual
        pairs = type(other) is Promise and self._are_one_call(other, promise, activation)
        later = self._open[before + 1 :]
        del self._open[before - pairs :]
        if self._open:
            self._run(before - pairs)
        if pairs and type(other) is Promise:
            y = _pair(other, promise, activation)
        else:
            y = promise.norm._normalize(x, activation, None if other is None else _tensor(other))
        promise.x = promise.residual = None
        if later:
            self._open = later
        return y

    def _are_one_call(self, first: Promise, last: Promise, activation: Activation) -> bool:
        """Whether two layers can be one: they share nothing, and none was called in between."""
        a, b = first.norm, last.norm
        return (
            first.x is not None
            and clips(activation)
            and self._open.index(last) - self._open.index(first) == 1
            and a is not b
            and a.backend == b.backend
            and a.training is b.training
            and a.running_mean is not b.running_mean
            and (
                a.num_batches_tracked is None or a.num_batches_tracked is not b.num_batches_tracked
            )
        )


def _tensor(residual: Promise | Tensor | None) -> Tensor | None:
    return residual.y if type(residual) is Promise else residual


def _may_wait(norm: _L1BatchNorm, x: Tensor) -> bool:
    """Whether a layer is today what can be fused, and something is gained by it.

    Transforms and dispatch modes are the registry's to see. A function mode sees calls, and may be
    entered within a forward, as a region without gradients may.
    """
    return (
        NORMS.get(type(norm)) is type(norm).forward
        and is_grad_enabled()
        and not _len_torch_function_stack()
        and not is_watched(norm)
        and norm.override is None
        and (x.requires_grad or _learns(norm))
        and (
            type(norm) is not L1BatchNormAct2d or (is_identity(norm.drop) and is_identity(norm.act))
        )
    )


def _learns(norm: _L1BatchNorm) -> bool:
    weight = norm._parameters.get("weight")
    return weight is not None and weight.requires_grad


def _is_quiet(f: object) -> bool:
    return (
        isinstance(f, nn.Module)
        and type(f).forward is _QUIET.get(type(f))
        and not is_watched(f)
        and "_conv_forward" not in f.__dict__
    )


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


def _pair(first: Promise, last: Promise, activation: Activation) -> Tensor:
    a, b = first.norm, last.norm
    assert first.x is not None
    assert last.x is not None
    try:
        one, other = a._branch(first.x), b._branch(last.x)
        branches = (other, one) if last.leads else (one, other)
        y = l1_batch_norm_pair(*branches, activation, a.backend)
    except Exception:
        a(first.x)  # as written: the first one has run where the second one raises
        b(last.x)
        raise
    first.x = None
    a._count()
    b._count()
    return y
