"""Which local variables may still be read after a statement."""

from __future__ import annotations

import ast

Names = frozenset[str]
NONE: Names = frozenset()


def live_after(body: list[ast.stmt]) -> dict[ast.stmt, Names]:
    """For every statement of a function, the names that may be read after it.

    Of what lies in loops, ``with``, ``try`` and ``match`` nothing is said.
    """
    found: dict[ast.stmt, Names] = {}
    _block(body, NONE, found)
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


def _block(body: list[ast.stmt], after: Names, found: dict[ast.stmt, Names]) -> Names:
    for statement in reversed(body):
        found[statement] = after
        after = _before(statement, after, found)
    return after


def _before(s: ast.stmt, after: Names, found: dict[ast.stmt, Names]) -> Names:
    if isinstance(s, (ast.Return, ast.Raise)):
        return mentioned(s)
    if isinstance(s, ast.If):
        branches = _block(s.body, after, found) | _block(s.orelse, after, found)
        return mentioned(s.test) | branches
    if isinstance(s, ast.Assign) and all(isinstance(t, ast.Name) for t in s.targets):
        return after - mentioned(*s.targets) | mentioned(s.value)
    return after | mentioned(s)
