"""What is said of the architecture: its page names files that exist, and no call is a tower."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/]+\.(?:py|h|cpp|c))`", PAGE)))


def test_the_page_names_files() -> None:
    assert len(NAMED) > 30


@pytest.mark.parametrize("name", NAMED)
def test_a_named_file_exists(name: str) -> None:
    here = name.startswith(("csrc/", "tests/", "benchmarks/"))
    path = ROOT / name if here else ROOT / "src/l1bn" / name
    assert path.is_file()


CONTRACTS = (ROOT / "pyproject.toml").read_text()


def _floors() -> list[set[str]]:
    """The floors of the import contract, the lowest first."""
    layers = re.search(r"^layers = \[\n(.*?)^\]", CONTRACTS, re.DOTALL | re.MULTILINE)
    assert layers is not None
    rows = re.findall(r'"(.+)"', layers[1])
    return [set(row.split(" | ")) - {"__main__"} for row in reversed(rows) if row != "__main__"]


def test_the_floors_are_those_of_the_contract() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    said = text[text.index("lower floors:") : text.index("`make lint` checks it")]
    assert [set(re.findall(r"`(\w+)`", floor)) for floor in said.split("·")] == _floors()
    picture = PAGE[PAGE.index("```text") : PAGE.index("```\n", PAGE.index("```text") + 7)]
    for name in set().union(*_floors()):
        assert re.search(rf"\b{name}(/|\.py)", picture), name


#: Arguments that a call passes by position at most; more go by name, or in a record.
MOST = 6
FILES = sorted((ROOT / "src/l1bn").rglob("*.py"))


def _own_calls(node: ast.AST) -> Iterator[ast.Call]:
    """Calls in Python; a function that a compiler takes is written in that compiler's language."""
    for child in ast.iter_child_nodes(node):
        decorators = child.decorator_list if isinstance(child, ast.FunctionDef) else []
        if any("jit" in ast.unparse(d) for d in decorators):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from _own_calls(child)


def _by_position(call: ast.Call) -> int:
    spread = [a.value if isinstance(a, ast.Starred) else None for a in call.args]
    return sum(len(a.elts) if isinstance(a, (ast.Tuple, ast.List)) else 1 for a in spread)


def _foreign(tree: ast.Module) -> set[str]:
    """Names that a file imports from elsewhere: their signatures are not ours."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [a for a in node.names if not a.name.startswith("l1bn")]
        elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith("l1bn"):
            names = node.names
        else:
            continue
        found.update(a.asname or a.name.split(".")[0] for a in names)
    return found


def _packers(trees: list[ast.Module]) -> set[str]:
    """What packs the arguments of a C function, one after the other, into a block."""
    assignments = [n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Assign)]
    packs = [n for n in assignments if ast.unparse(n.value).startswith("struct.Struct(")]
    return {ast.unparse(target) for n in packs for target in n.targets}


def _towers(tree: ast.Module, packers: set[str]) -> list[str]:
    foreign = _foreign(tree)
    found = []
    for call in _own_calls(tree):
        name = ast.unparse(call.func)
        last = name.rpartition(".")[2]
        # Autograd takes tensors by position, and keeps them so.
        by_rule = last in packers | {"apply", "save_for_backward"} or name.split(".")[0] in foreign
        if _by_position(call) > MOST and not by_rule:
            found.append(f"line {call.lineno}: {name} takes {_by_position(call)} by position")
    return found


def test_no_call_is_a_tower_of_positional_arguments() -> None:
    trees = [ast.parse(file.read_text()) for file in FILES]
    packers = _packers(trees)
    assert len(packers) > 5
    found = {str(f): _towers(t, packers) for f, t in zip(FILES, trees, strict=True)}
    assert {f: towers for f, towers in found.items() if towers} == {}


@pytest.mark.parametrize(
    ("source", "towers"),
    [
        ("f(1, 2, 3, 4, 5, 6)", 0),
        ("f(1, 2, 3, 4, 5, 6, 7)", 1),
        ("f(1, *(2, 3, 4, 5, 6, 7))", 1),
        ("f(*(1, 2, 3, 4), *five_and_six, (7, 8, 9))", 0),
        ("f(1, 2, 3, 4, 5, g(1, 2, 3, 4, 5, 6, 7))", 1),
        ("import torch\ntorch.f(1, 2, 3, 4, 5, 6, 7)", 0),
        ("from l1bn import f\nf(1, 2, 3, 4, 5, 6, 7)", 1),
        ("@triton.jit\ndef kernel(): f(1, 2, 3, 4, 5, 6, 7)", 0),
        ("_pack(1, 2, 3, 4, 5, 6, 7)", 0),
    ],
)
def test_the_search_finds_towers(source: str, towers: int) -> None:
    assert len(_towers(ast.parse(source), {"_pack"})) == towers
