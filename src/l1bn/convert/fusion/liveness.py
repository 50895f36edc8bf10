"""Which local variables may still be read after a statement."""

from __future__ import annotations

import ast
from typing import NamedTuple

Names = frozenset[str]
NONE: Names = frozenset()


class Jumps(NamedTuple):
    """What is live where a statement may jump to: out of a loop, to its head, to a handler."""

    out: Names = NONE
    head: Names = NONE
    error: Names = NONE


def live_after(body: list[ast.stmt]) -> dict[ast.stmt, Names]:
    """For every statement of a function, the names that may be read after it."""
    found: dict[ast.stmt, Names] = {}
    _block(body, NONE, Jumps(), found)
    return found


def mentioned(*nodes: ast.AST | None) -> Names:
    """Every name in some nodes, inner scopes included."""
    return frozenset(
        n.id
        for node in nodes
        if node is not None
        for n in ast.walk(node)
        if isinstance(n, ast.Name)
    )


def _block(body: list[ast.stmt], after: Names, to: Jumps, found: dict[ast.stmt, Names]) -> Names:
    for statement in reversed(body):
        found[statement] = found.get(statement, NONE) | after | to.error
        after = _before(statement, after, to, found) | to.error
    return after


def _before(s: ast.stmt, after: Names, to: Jumps, found: dict[ast.stmt, Names]) -> Names:
    if isinstance(s, (ast.Return, ast.Raise)):
        return mentioned(s)
    if isinstance(s, ast.Break):
        return to.out
    if isinstance(s, ast.Continue):
        return to.head
    if isinstance(s, ast.If):
        branches = _block(s.body, after, to, found) | _block(s.orelse, after, to, found)
        return mentioned(s.test) | branches
    if isinstance(s, (ast.For, ast.While)):
        return _loop(s, after, to, found)
    if isinstance(s, ast.Assign) and all(isinstance(t, ast.Name) for t in s.targets):
        return after - mentioned(*s.targets) | mentioned(s.value)
    if any(isinstance(getattr(s, name, None), list) for name in ("body", "cases")):
        return _guarded(s, after, to, found)
    return after | mentioned(s)


def _loop(s: ast.For | ast.While, after: Names, to: Jumps, found: dict[ast.stmt, Names]) -> Names:
    over = mentioned(s.iter, s.target) if isinstance(s, ast.For) else mentioned(s.test)
    head = over | _block(s.orelse, after, to, found) | after
    for _ in range(2):  # what the body reads first is live at its end
        head |= _block(s.body, head, Jumps(after, head, to.error), found)
    return head


def _guarded(s: ast.stmt, after: Names, to: Jumps, found: dict[ast.stmt, Names]) -> Names:
    """``with``, ``try`` and ``match``: any statement inside may lead to anywhere in or after it."""
    inside = after | to.error | mentioned(s)
    jumps = Jumps(to.out | inside, to.head | inside, inside)
    for part in ast.walk(s):
        for name in ("body", "orelse", "finalbody"):
            statements = getattr(part, name, None)
            if isinstance(statements, list):
                _block(statements, inside, jumps, found)
    return inside
