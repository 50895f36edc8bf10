"""What statements and calls look like, to the rewriting of a forward."""

from __future__ import annotations

import ast

from l1bn.convert.fusion.liveness import mentioned
from l1bn.convert.fusion.source import FRAME
from l1bn.nn.fusable import OPTIONS

SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.ListComp,
          ast.SetComp, ast.DictComp, ast.GeneratorExp)  # fmt: skip


def helper(name: str, args: list[ast.expr], keywords: list[ast.keyword] | None = None) -> ast.Call:
    """A call of the frame."""
    function = ast.Attribute(ast.Name(FRAME, ast.Load()), name, ast.Load())
    return ast.Call(function, args, keywords or [])


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


def ends(body: list[ast.stmt]) -> bool:
    """Whether a block is left at its last statement."""
    return bool(body) and isinstance(body[-1], (ast.Return, ast.Raise, ast.Break, ast.Continue))


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
    """Local variables that no inner scope, ``del``, walrus, pattern, global or nonlocal touches."""
    touched: set[str] = set()
    for node in ast.walk(definition):
        if (isinstance(node, SCOPES) and node is not definition) or isinstance(
            node, (ast.Delete, ast.NamedExpr, ast.pattern)
        ):
            touched |= mentioned(node)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            touched |= set(node.names)
    return stored(definition) - touched
