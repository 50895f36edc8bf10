"""Symbolic traces of one block's forward that stay true for every input.

``torch.fx`` records what a forward does with stand-ins for its tensors. A trace is only as good
as the assumption that the forward would do the same with real tensors. This tracer refuses
where that cannot be relied on: it asks for the type of a tensor, computes tensors or random
numbers of its own, or changes the module. What depends on values or shapes fails by itself.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import operator
import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from torch import fx, nn
from torch.overrides import TorchFunctionMode

from l1bn.convert.call import CallPattern
from l1bn.convert.generators import rewound
from l1bn.convert.watch import original_class, own_attributes


class NotTraceableError(Exception):
    """The forward cannot be traced soundly; the message says why."""


class _Proxy(fx.Proxy):
    """A stand-in that notices when the model asks for its type."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # isinstance() reads __class__ in the frame that calls it.
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if not caller.startswith(("torch.", "l1bn.")):
            raise NotTraceableError("it asks for the type of a tensor")
        return type(self)


def _in_place(operation: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return method


# fx itself records `x += y` as `x + y` and so forgets that x changes.
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"):
    setattr(_Proxy, f"__i{_name}__", _in_place(getattr(operator, f"i{_name}")))


class _OwnTensors(TorchFunctionMode):
    """Refuses calls that compute with no stand-in: their result would be frozen into the trace."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if not any(issubclass(kind, fx.Proxy) for kind in types):
            name = getattr(func, "__name__", str(func))
            if name not in ("__get__", "is_scripting"):
                raise NotTraceableError(f"it computes a tensor of its own with {name}")
        return func(*args, **(kwargs or {}))


class BlockTracer(fx.Tracer):
    """Traces a block with its submodules as opaque calls.

    Args:
        block: the module to trace.
        pattern: how it is called: tensors become inputs, everything else is a constant.
        inlined: paths of submodules to reach into instead of calling them.
    """

    def __init__(self, block: nn.Module, pattern: CallPattern, inlined: frozenset[str]) -> None:
        super().__init__(autowrap_functions=_helpers(block, inlined))
        self._pattern = pattern
        self._inlined = inlined

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Everything but what is to be inlined."""
        return module_qualified_name not in self._inlined

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Stand-in for the result of a node."""
        return _Proxy(node, self)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Inputs of the trace: the tensors of the call pattern, in order."""
        number = itertools.count(1)
        args, kwargs = self._pattern.fill(
            lambda: self.create_proxy("placeholder", f"input_{next(number)}", (), {})
        )
        before = _copy_lists((args, kwargs))

        def call(root: Any, *values: Any) -> Any:
            result = root_fn(root, *values, **kwargs)
            if not _same_lists((list(values), kwargs), before):
                raise NotTraceableError("it changes a list that it is given")
            return result

        return call, [self.root, *args]


def _copy_lists(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copy_lists(item) for key, item in value.items()}
    return type(value)(map(_copy_lists, value)) if type(value) in (list, tuple) else value


def _same_lists(now: Any, before: Any) -> bool:
    if type(before) is dict:
        return all(_same_lists(now[key], item) for key, item in before.items())
    if type(before) not in (list, tuple):
        return now is before
    return len(now) == len(before) and all(map(_same_lists, now, before))


def trace_block(block: nn.Module, pattern: CallPattern, inlined: frozenset[str]) -> fx.Graph:
    """Trace the block in the mode (training or evaluation) that it and its parts are in.

    Args:
        block: the module.
        pattern: how it is called.
        inlined: paths of submodules to reach into.

    Raises:
        NotTraceableError: with the reason.
    """
    parts = [block, *(block.get_submodule(path) for path in inlined)]
    _check_forward(parts)
    tracer = BlockTracer(block, pattern, inlined)
    with _unchanged(parts):
        try:
            with _OwnTensors():
                graph = tracer.trace(block)
        except NotTraceableError:
            raise
        except Exception as error:  # whatever the model's code raises when met by a stand-in
            raise NotTraceableError(_first_line(error)) from error
    return graph


def _check_forward(parts: list[nn.Module]) -> None:
    for part in parts:
        if "forward" in part.__dict__:
            raise NotTraceableError(f"the forward of a {type(part).__name__} was replaced")
        if not isinstance(type(part).forward, FunctionType):
            raise NotTraceableError(f"{type(part).__name__}.forward is not a Python function")


@contextlib.contextmanager
def _unchanged(parts: list[nn.Module]) -> Iterator[None]:
    """Restore what a trace changes in modules and generators, and refuse a trace that did."""
    before = [_state(part) for part in parts]
    changed = False
    with rewound() as moved:
        try:
            yield
        finally:
            for part, state in zip(parts, before, strict=True):
                changed |= _restore(part, state)
    if changed:
        raise NotTraceableError("it changes attributes of the module")
    if moved:
        raise NotTraceableError("it draws random numbers of its own")


_State = tuple[dict[str, Any], dict[str, dict[str, Any]]]
_TABLES = ("_parameters", "_buffers", "_modules")


def _state(part: nn.Module) -> _State:
    return dict(own_attributes(part)), {name: dict(part.__dict__[name]) for name in _TABLES}


def _restore(part: nn.Module, state: _State) -> bool:
    own, tables = state
    changed = False
    now = own_attributes(part)
    if _differs(now, own):
        changed = True
        for name in now:
            del part.__dict__[name]
        part.__dict__.update(own)
    for name, table in tables.items():
        if _differs(part.__dict__[name], table):
            changed = True
            part.__dict__[name].clear()
            part.__dict__[name].update(table)
    return changed


def _differs(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return now.keys() != before.keys() or any(now[k] is not v for k, v in before.items())


def _helpers(block: nn.Module, inlined: frozenset[str]) -> tuple[Callable[..., Any], ...]:
    """Functions beside a forward in its file: called as they are, whatever they do inside."""
    found: dict[int, Callable[..., Any]] = {}
    for part in (block, *(block.get_submodule(path) for path in inlined)):
        forward = inspect.unwrap(original_class(part).forward)
        for name, value in getattr(forward, "__globals__", {}).items():
            if isinstance(value, FunctionType) and not name.startswith("_"):
                found[id(value)] = value
    ours = (value for value in found.values() if not str(value.__module__).startswith("torch."))
    return tuple(ours)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
