"""The source of a forward, and its code compiled again where it stands."""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType

#: Name of what a rewritten forward is given beside its arguments.
FRAME = "_l1bn"
_SEES_LOCALS = {"locals", "vars", "dir", "eval", "exec", "_getframe", "currentframe"}


class NoSourceError(Exception):
    """The source cannot be used; the message says why."""


class Source:
    """The file of a forward, parsed, and the forward in it.

    The whole file is compiled, so that names, closures, ``super()`` and line numbers mean what
    they mean there; none of it is run.

    Args:
        forward: a function of a class.

    Raises:
        NoSourceError: with the reason.
    """

    def __init__(self, forward: object) -> None:
        if not isinstance(forward, FunctionType):
            raise NoSourceError("its forward is no function of its class")
        self.original = forward
        try:
            self._module = ast.parse("".join(inspect.findsource(forward)[0]))
        except (OSError, TypeError, SyntaxError, IndexError):
            raise NoSourceError("its source is not available: define it in a file") from None
        self.definition = self._find()
        if self._compile() != forward.__code__:
            raise NoSourceError("its source is not what runs: it is decorated, or was edited")
        self._check()

    @property
    def self_name(self) -> str:
        """Name of the first parameter."""
        arguments = self.definition.args
        return [*arguments.posonlyargs, *arguments.args][0].arg

    def function(self) -> Callable[..., object]:
        """The forward from the definition as it is now.

        It shares the original's globals, closure cells and defaults.
        """
        forward, code = self.original, self._compile()
        cells = dict(zip(forward.__code__.co_freevars, forward.__closure__ or (), strict=True))
        closure = tuple(cells[name] for name in code.co_freevars)
        function = FunctionType(
            code, forward.__globals__, forward.__name__, forward.__defaults__, closure
        )
        function.__kwdefaults__ = dict(forward.__kwdefaults__ or {})
        return function

    def _find(self) -> ast.FunctionDef:
        line = self.original.__code__.co_firstlineno
        for node in ast.walk(self._module):
            if isinstance(node, ast.FunctionDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                if first == line and node.name == self.original.__code__.co_name:
                    return node
        raise NoSourceError("its source is not what runs: it is decorated, or was edited")

    def _check(self) -> None:
        arguments = self.definition.args
        first = [*arguments.posonlyargs, *arguments.args]
        if not first:
            raise NoSourceError("its forward takes no self: it is decorated")
        read = {
            node.value
            for node in ast.walk(self.definition)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
        }
        modes = {  # layer.eval(): the builtin takes an argument
            node.func
            for node in ast.walk(self.definition)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args
        }
        for node in ast.walk(self.definition):
            name = getattr(node, "id", getattr(node, "attr", None))
            stored = isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del))
            if isinstance(node, ast.Name) and name == first[0].arg and stored:
                raise NoSourceError("its forward rebinds self")
            if name == FRAME or getattr(node, "arg", None) == FRAME:
                raise NoSourceError(f"its forward has a variable named {FRAME}")
            if node not in read and _asks_for_class(node, first[0].arg):
                raise NoSourceError("its forward asks for its own class, which fusing changes")
            if isinstance(node, (ast.Yield, ast.YieldFrom, ast.Await)):
                raise NoSourceError("its forward is a generator")
            if name in _SEES_LOCALS and not (name == "eval" and node in modes):
                raise NoSourceError(f"its forward may look at its own variables ({name})")

    def _compile(self) -> CodeType:
        wanted = self.original.__code__
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the file are not this library's
            code = compile(self._module, wanted.co_filename, "exec", dont_inherit=True)
        for found in _codes(code):
            if (found.co_name, found.co_firstlineno) == (wanted.co_name, wanted.co_firstlineno):
                return found
        raise NoSourceError("its source is not what runs: it is decorated, or was edited")


def _asks_for_class(node: ast.AST, self_name: str) -> bool:
    """Whether a node is ``type(self)`` or ``self.__class__``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type":
        return any(isinstance(a, ast.Name) and a.id == self_name for a in node.args)
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "__class__"
        and isinstance(node.value, ast.Name)
        and node.value.id == self_name
    )


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)
