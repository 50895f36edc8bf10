"""Docstrings speak one dialect, and the public ones give shapes and errors."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import nn

import l1bn
import l1bn.nn
from l1bn import fixed_point, quantized, reference

SOURCES = sorted(Path(l1bn.__file__).parent.rglob("*.py"))
ARRAY = re.compile(r"\b(Tensor|IntArray|ScalarArray|ndarray)\b")

Documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def test_code_stands_in_double_backticks_and_nothing_in_roles() -> None:
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.get_docstring(node) if isinstance(node, Documented) else None
            wrong += [(path.name, found) for found in _foreign(text or "")]
    assert not wrong


def _foreign(docstring: str) -> list[str]:
    """Sphinx roles, and what Markdown would call code."""
    return re.findall(r":[a-z:]+:`[^`]*`|(?<!`)`[^`]+`(?!`)", docstring)


def test_foreign_dialects_are_recognized() -> None:
    assert _foreign("See :class:`~torch.Tensor`, `x`, and ``y``.") == [
        ":class:`~torch.Tensor`",
        "`x`",
    ]


def _public() -> Iterator[Any]:
    """Public functions and classes of the packages that the API pages show."""
    for module in (l1bn, quantized, fixed_point, reference):
        for name in getattr(module, "__all__", None) or _own(module):
            found = getattr(module, name)
            if inspect.isfunction(found) or (inspect.isclass(found) and _is_ours(found)):
                yield pytest.param(found, id=f"{module.__name__}.{name}")


def _own(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
    ]


def _is_ours(found: type) -> bool:
    return found.__module__.startswith("l1bn")


def _bodies(found: Any) -> list[Callable[..., object]]:
    """The function, or what runs when the class is made."""
    if inspect.isfunction(found):
        return [found]
    return [
        vars(found)[name]
        for name in ("__init__", "__post_init__", "__new__")
        if name in vars(found)
    ]


def _raises(function: Callable[..., object]) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:  # written by dataclass
        return False
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))


def _takes_arrays(found: Any) -> bool:
    """Whether an argument, or a field of a dataclass, is a tensor or an array."""
    if inspect.isclass(found) and issubclass(found, nn.Module):
        return found.__module__.startswith("l1bn.nn")
    annotations = dict(getattr(found, "__annotations__", {}))
    annotations.pop("return", None)
    return any(ARRAY.search(str(annotation)) for annotation in annotations.values())


@pytest.mark.parametrize("found", list(_public()))
def test_a_public_docstring_gives_shapes_and_errors(found: Any) -> None:
    text = inspect.getdoc(found) or ""
    if _takes_arrays(found):
        assert "Shape:" in text
    if any(_raises(body) for body in _bodies(found)):
        assert "Raises:" in text
