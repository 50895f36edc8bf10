"""The rewritten forward of a block that no trace can stand for, from its source.

Control flow on values or types defeats a trace. But where the source itself says that an
activation takes the very output of a layer and nothing else does, the two can be replaced right
there, whatever the code around them does:

    x = self.act(self.norm(x))              nested calls
    x = self.norm(x)                        neighbouring statements on one variable
    x = self.act(x)
    x = self.act(self.norm(x) + residual)   with the addition of a variable
"""

from __future__ import annotations

import ast
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from l1bn.convert.match import RELU_FUNCTIONS
from l1bn.convert.norm_act import is_fusable_norm
from l1bn.convert.watch import NORM_ACT, original_class
from l1bn.nn.fusable import activation_of


class NoSourceError(Exception):
    """The source cannot be used; the message says why."""


def rewrite_source(block: nn.Module) -> tuple[Callable[..., Any], dict[str, str]]:
    """Rewrite a block's forward where its source shows a layer and its activation together.

    Args:
        block: the module.

    Returns:
        The function, for a block of a fused class, and per fused layer (path in the block)
        what was fused; empty where the source shows no such place.

    Raises:
        NoSourceError: with the reason.
    """
    forward: Any = original_class(block).forward
    if "forward" in block.__dict__ or not isinstance(forward, FunctionType):
        raise NoSourceError("its forward was replaced")
    module, definition = _parse(forward)
    # The whole file is compiled, so that the forward means what it means there.
    if _compile(module, forward) != forward.__code__:
        raise NoSourceError("its source is not what runs")
    rewriter = _Rewriter(block, _self_name(definition), forward.__globals__)
    rewriter.generic_visit(definition)
    function = FunctionType(
        _compile(ast.fix_missing_locations(module), forward),
        forward.__globals__,
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    function.__kwdefaults__ = forward.__kwdefaults__
    return function, rewriter.texts


def _parse(forward: FunctionType) -> tuple[ast.Module, ast.FunctionDef]:
    """The file of a forward, and the forward in it."""
    try:
        module = ast.parse("".join(inspect.findsource(forward)[0]))
    except (OSError, TypeError, SyntaxError):
        raise NoSourceError("its source is not available") from None
    line = forward.__code__.co_firstlineno
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.lineno == line:
            return module, node
    raise NoSourceError("its source is not what runs")


def _self_name(definition: ast.FunctionDef) -> str:
    """Name of the first parameter, which must stay what it is."""
    if not definition.args.args:
        raise NoSourceError("its forward takes no self")
    name = definition.args.args[0].arg
    for node in ast.walk(definition):
        stored = isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        if stored or isinstance(node, (ast.Global, ast.Nonlocal)):
            raise NoSourceError("its forward rebinds variables")
    return name


def _compile(module: ast.Module, forward: FunctionType) -> CodeType:
    """Code of the forward in its file, which is compiled and not run."""
    wanted = forward.__code__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the file are not this library's
        code = compile(module, wanted.co_filename, "exec", dont_inherit=True)
    for found in _codes(code):
        if (found.co_name, found.co_firstlineno) == (wanted.co_name, wanted.co_firstlineno):
            return found
    raise NoSourceError("its source is not what runs")


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


class _Rewriter(ast.NodeTransformer):
    """Replaces a layer's call and its activation by one call.

    Args:
        block: the module whose forward it is.
        self_name: name of its first parameter.
        namespace: the forward's globals.
    """

    def __init__(self, block: nn.Module, self_name: str, namespace: dict[str, Any]) -> None:
        self._block = block
        self._self = self_name
        self._namespace = namespace
        self.texts: dict[str, str] = {}

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Join neighbouring statements, then go on inside."""
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(node, name, None)
            if isinstance(statements, list):
                setattr(node, name, self._join(statements))
        return super().generic_visit(node)

    def visit(self, node: ast.AST) -> Any:
        """Leave functions inside the forward alone: they have names of their own."""
        inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
        return node if isinstance(node, inner) else super().visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Replace ``act(norm(x))`` and ``act(norm(x) + residual)``."""
        super().generic_visit(node)
        act = self._act(node)
        if act is None:
            return node
        inner, residual = node.args[0], None
        if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Add):
            inner, residual = self._sum(inner)
        norm = self._norm(inner)
        if norm is None:
            return node
        assert isinstance(inner, ast.Call)
        self.texts[norm] = " → ".join([norm, *(["add"] if residual else []), act[1]])
        arguments = [inner.func, act[0], inner.args[0], *([residual] if residual else [])]
        helper = ast.Attribute(ast.Name(self._self, ast.Load()), NORM_ACT, ast.Load())
        call = ast.Call(helper, arguments, [])
        return ast.copy_location(call, node)

    def _join(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """``x = norm(e)`` and ``x = act(x)`` in a row become ``x = act(norm(e))``."""
        joined: list[ast.stmt] = []
        for statement in statements:
            last = joined[-1] if joined else None
            if (
                isinstance(statement, ast.Assign)
                and isinstance(last, ast.Assign)
                and _target(statement) is not None
                and _target(statement) == _target(last)
                and isinstance(statement.value, ast.Call)
                and self._act(statement.value) is not None
                and _name(statement.value.args[0]) == _target(last)
                and self._norm(last.value) is not None
            ):
                statement.value.args[0] = last.value
                joined.pop()
            joined.append(statement)
        return joined

    def _sum(self, node: ast.BinOp) -> tuple[ast.expr, ast.expr | None]:
        """The layer's call and the variable added to it."""
        for call, other in ((node.left, node.right), (node.right, node.left)):
            if isinstance(call, ast.Call) and isinstance(other, ast.Name):
                return call, other
        return node, None

    def _norm(self, node: ast.expr) -> str | None:
        """Path of the layer that a node calls with one argument."""
        if not isinstance(node, ast.Call) or node.keywords or len(node.args) != 1:
            return None
        path = self._path(node.func)
        plain = not isinstance(node.args[0], ast.Starred)
        return path if plain and is_fusable_norm(self._module(path)) else None

    def _act(self, node: ast.Call) -> tuple[ast.expr, str] | None:
        """What to pass for the activation that a node calls, and its name."""
        if len(node.args) != 1 or isinstance(node.args[0], ast.Starred):
            return None
        path = self._path(node.func)
        if path is not None:
            module = self._module(path)
            return (node.func, path) if not node.keywords and activation_of(module) else None
        name = RELU_FUNCTIONS.get(self._global(node.func))
        in_place = all(word.arg == "inplace" for word in node.keywords)
        return (ast.Constant(name), name) if name is not None and in_place else None

    def _path(self, node: ast.expr) -> str | None:
        """``a.b`` for ``self.a.b``."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        return ".".join(reversed(names)) if names and _name(node) == self._self else None

    def _module(self, path: str | None) -> nn.Module | None:
        try:
            return None if path is None else self._block.get_submodule(path)
        except AttributeError:
            return None

    def _global(self, node: ast.expr) -> Any:
        """The object that ``F.relu`` and the like stand for."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        root = self._namespace.get(_name(node) or "")
        return functools.reduce(lambda at, name: getattr(at, name, None), reversed(names), root)


def _name(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def _target(statement: ast.Assign) -> str | None:
    return _name(statement.targets[0]) if len(statement.targets) == 1 else None
