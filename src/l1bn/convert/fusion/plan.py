"""What a forward's source promises, once for every forward."""

from __future__ import annotations

import ast
import contextlib
import inspect
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import CodeType, FunctionType

from torch import is_grad_enabled, nn
from torch._C import _get_tracing_state, _len_torch_function_stack
from torch.compiler import is_compiling

from l1bn.convert.fusion.rewrite import Origins, Rewriter
from l1bn.convert.fusion.source import NoSourceError, Source
from l1bn.nn.fusable import activation_of

_METHODS = {"__getattr__": nn.Module.__getattr__, "__getattribute__": object.__getattribute__}


@dataclass(frozen=True)
class Method:
    """A method of a class, rewritten.

    Attributes:
        function: the function as it was.
        code: its code.
        defaults: its defaults.
        run: the rewritten one, which is given a frame too.
        sites: callee and where the promise that it takes may come from, as source text.
    """

    function: FunctionType
    code: CodeType
    defaults: tuple[tuple[object, ...] | None, dict[str, object] | None]
    run: Callable[..., object]
    sites: frozenset[tuple[str, Origins]]

    def serves(self, function: object) -> bool:
        """Whether to run the rewritten one now, in the place of what the class has.

        Where gradients are recorded, neither a tracer nor a mode looks on, and the class still has
        the method that was rewritten.
        """
        return (
            is_grad_enabled()
            and not is_compiling()
            and not _get_tracing_state()
            and not _len_torch_function_stack()
            and self.is_still(function)
        )

    def is_still(self, function: object) -> bool:
        """Whether a function is the one that was rewritten, as it was."""
        return (
            function is self.function
            and function.__code__ is self.code
            and function.__defaults__ is self.defaults[0]
            and (function.__kwdefaults__ is self.defaults[1] or self._has_defaults(function))
        )

    def _has_defaults(self, function: FunctionType) -> bool:
        """By identity: values may be of any type, with an equality of their own."""
        now, then = function.__kwdefaults__, self.defaults[1]
        if now is None or then is None:
            return False
        return now.keys() == then.keys() and all(now[name] is v for name, v in then.items())


@dataclass(frozen=True)
class Plan:
    """A class's forward, and the methods that it mentions, rewritten.

    Attributes:
        forward: its forward.
        ends: where the promises come from that it may return.
        methods: the others, by name.
    """

    forward: Method
    ends: Origins
    methods: dict[str, Method]

    def is_still(self, cls: type[nn.Module]) -> bool:
        """Whether a class has the methods that were rewritten."""
        methods = {"forward": self.forward, **self.methods}
        return all(m.is_still(getattr(cls, name, None)) for name, m in methods.items())


def plan_for(cls: type[nn.Module]) -> Plan:
    """Rewrite a class's forward, and the methods of its own that it reaches.

    Raises:
        NoSourceError: with the reason.
    """
    source = Source(cls.forward)
    others = _own_methods(cls, source.definition)
    rewriter, method = _rewrite(cls, source)
    methods: dict[str, Method] = {}
    while others:
        name = others.pop()
        if name in methods:
            continue
        with contextlib.suppress(NoSourceError):
            source = Source(inspect.getattr_static(cls, name))
            others |= _own_methods(cls, source.definition)
            methods[name] = _rewrite(cls, source)[1]
    methods = {name: found for name, found in methods.items() if found.sites}
    return Plan(method, frozenset(rewriter.ends), methods)


def method_of(
    function: object, run: Callable[..., object], sites: Iterable[tuple[str, Origins]] = ()
) -> Method:
    """Note what a function was when it was rewritten."""
    assert isinstance(function, FunctionType)
    keywords = function.__kwdefaults__
    defaults = function.__defaults__, None if keywords is None else dict(keywords)
    return Method(function, function.__code__, defaults, run, frozenset(sites))


def _rewrite(cls: type[nn.Module], source: Source) -> tuple[Rewriter, Method]:
    looks = _Looks(cls, source.self_name, source.original)
    rewriter = Rewriter(looks.role, looks.is_quiet)
    rewriter.rewrite(source.definition)
    return rewriter, method_of(source.original, source.function(), rewriter.sites)


def _own_methods(cls: type[nn.Module], definition: ast.FunctionDef) -> set[str]:
    """Names after ``self.`` that are functions of the class, and none of nn.Module's."""
    names = {node.attr for node in ast.walk(definition) if isinstance(node, ast.Attribute)}
    return {
        name
        for name in names
        if isinstance(inspect.getattr_static(cls, name, None), FunctionType)
        and not hasattr(nn.Module, name)
    }


class _Looks:
    """What the names in a forward mean."""

    def __init__(self, cls: type[nn.Module], self_name: str, forward: FunctionType) -> None:
        self._cls, self._self, self._globals = cls, self_name, forward.__globals__
        code = forward.__code__
        self._locals = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        self._plain = all(getattr(cls, n) is found for n, found in _METHODS.items())

    def role(self, e: ast.expr) -> str | None:
        """See ``l1bn.convert.fusion.rewrite.Rewriter``."""
        path = _path(e)
        if path is None or path == [self._self]:
            return None
        if path[0] == self._self:
            return "live"
        if path[0] in self._locals:
            return "live" if len(path) == 1 else None
        return "act" if activation_of(self._global(path)) is not None else None

    def is_quiet(self, e: ast.expr) -> bool:
        """Whether loading an expression runs no code of the user's."""
        if isinstance(e, ast.Constant):
            return True
        path = _path(e)
        if path is None:
            return False
        if path[0] == self._self:
            return len(path) == 1 or (len(path) == 2 and self._plain and self._is_item(path[1]))
        if path[0] in self._locals:
            return len(path) == 1
        return len(path) == 1 or self._global(path) is not None

    def _is_item(self, name: str) -> bool:
        found = getattr(self._cls, name, None)
        return found is None or not hasattr(type(found), "__get__")

    def _global(self, path: list[str]) -> object:
        """The object that ``F.relu`` stands for, reached through Python modules only."""
        at: object = self._globals.get(path[0])
        for name in path[1:]:
            at = vars(at).get(name) if isinstance(at, types.ModuleType) else None
        return at


def _path(e: ast.expr) -> list[str] | None:
    names: list[str] = []
    while isinstance(e, ast.Attribute):
        names.append(e.attr)
        e = e.value
    return [e.id, *reversed(names)] if isinstance(e, ast.Name) else None
