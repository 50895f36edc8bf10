"""What statements and calls look like, to the rewriting of a forward."""

from __future__ import annotations

import ast

from l1bn.convert.fusion.liveness import mentioned
from l1bn.nn.fusable import OPTIONS

#: Names of what a rewritten forward is given beside its arguments.
HELPER, LEAVE, EARLIER = "_l1bn", "_l1bn_leave", "_l1bn_earlier"
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.ListComp,
          ast.SetComp, ast.DictComp, ast.GeneratorExp)  # fmt: skip


def helper(name: str, args: list[ast.expr], keywords: list[ast.keyword] | None = None) -> ast.Call:
    """A call of the live decision."""
    function = ast.Attribute(ast.Name(HELPER, ast.Load()), name, ast.Load())
    return ast.Call(function, args, keywords or [])


def without(e: ast.expr, name: str) -> ast.expr:
    """An expression whose live calls do not name a promise."""
    for node in ast.walk(e):
        if isinstance(node, ast.Tuple):
            node.elts = [a for a in node.elts if not (isinstance(a, ast.Name) and a.id == name)]
    return e


def tuple_of(names: list[str]) -> ast.expr:
    """The variables that may hold promises given earlier, as one argument."""
    if names == [EARLIER]:
        return ast.Name(EARLIER, ast.Load())
    return ast.Tuple([earlier(name) for name in names], ast.Load())


def earlier(name: str) -> ast.expr:
    """One of them among others."""
    load = ast.Name(name, ast.Load())
    return ast.Starred(load, ast.Load()) if name == EARLIER else load


def expression(node: ast.stmt) -> ast.expr | None:
    """What a statement assigns or returns; of ``v += r`` the sum."""
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        if not isinstance(node.op, ast.Add):
            return None
        left = ast.copy_location(ast.Name(node.target.id, ast.Load()), node.target)
        node.total = ast.copy_location(ast.BinOp(left, node.op, node.value), node)  # type: ignore[attr-defined]
        return node.total  # type: ignore[attr-defined]
    return node.value if isinstance(node, (ast.Assign, ast.AnnAssign, ast.Return)) else None


def target_of(node: ast.stmt) -> str | None:
    """The one variable that a statement assigns."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else None


def stored(node: ast.AST) -> set[str]:
    """Every variable that a node assigns."""
    return {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


def is_plain(e: ast.Call) -> bool:
    """Whether a call has one argument, at most a constant more, and an activation's keywords."""
    if not 1 <= len(e.args) <= 2 or isinstance(e.args[0], ast.Starred):
        return False
    constants = [*e.args[1:], *(k.value for k in e.keywords)]
    return all(isinstance(v, ast.Constant) for v in constants) and all(
        k.arg in ("inplace", *OPTIONS) for k in e.keywords
    )


def plain_names(definition: ast.FunctionDef) -> set[str]:
    """Local variables that no inner scope, ``del``, walrus, global or nonlocal touches."""
    touched: set[str] = set()
    for node in ast.walk(definition):
        if (isinstance(node, SCOPES) and node is not definition) or isinstance(
            node, (ast.Delete, ast.NamedExpr)
        ):
            touched |= mentioned(node)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            touched |= set(node.names)
    return stored(definition) - touched
