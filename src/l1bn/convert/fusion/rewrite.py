"""The one edit of a forward's source: ``f(x)`` and ``a + b`` become calls of the live decision.

Of every local variable it is known where a promise in it may come from. It is read through
``value`` wherever it is not consumed, and is consumed only where the variable is dead afterwards.
Within a loop, a ``with`` or a ``try`` no variable gets a promise. What was promised is settled
before any statement that runs more than loads and live calls; these settle for themselves.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

from l1bn.convert.fusion.liveness import live_after, mentioned
from l1bn.convert.fusion.source import FRAME
from l1bn.convert.fusion.syntax import (
    SCOPES,
    ends,
    expression,
    helper,
    is_plain,
    plain_names,
    stored,
    target_of,
)
from l1bn.nn.fusable import METHODS

#: Where a promise may come from: the callee's source, and whether something was added since.
Origins = frozenset[tuple[str, bool]]
NOWHERE: Origins = frozenset()
#: Variables that may hold a promise at a point of the walk.
State = dict[str, Origins]


class Rewriter:
    """Rewrites one forward.

    Args:
        role: what the callee of a call is: "act" for an activation, "live" for what is looked at
            when it is called, ``None`` for a call to be left alone.
        quiet: whether loading an expression runs no code of the user's.
    """

    def __init__(
        self, role: Callable[[ast.expr], str | None], quiet: Callable[[ast.expr], bool]
    ) -> None:
        self._role, self._quiet = role, quiet
        self._closed = 0  # depth of loops, withs and tries
        self.sites: set[tuple[str, Origins]] = set()
        self.ends: set[tuple[str, bool]] = set()

    def rewrite(self, definition: ast.FunctionDef) -> None:
        """Rewrite a forward in place."""
        self._live = live_after(definition.body)
        self._names = plain_names(definition)
        definition.body = self._block(definition.body, {})
        definition.args.kwonlyargs.append(ast.arg(FRAME))
        definition.args.kw_defaults.append(None)
        ast.fix_missing_locations(definition)

    # Statements

    def _block(self, body: list[ast.stmt], state: State) -> list[ast.stmt]:
        out: list[ast.stmt] = []
        for node in body:
            if isinstance(node, ast.If):
                self._if(node, state, out)
            elif any(isinstance(getattr(node, n, None), list) for n in ("body", "cases")):
                self._compound(node, state, out)
            else:
                self._simple(node, state, out)
        return out

    def _simple(self, node: ast.stmt, state: State, out: list[ast.stmt]) -> None:
        target, expr = target_of(node), expression(node)
        returns = isinstance(node, ast.Return)
        taken = expr is not None and (returns or target in self._names) and not self._closed
        if expr is None or not taken or not self._may(expr, node, state):
            self._leave_alone(node, target, state, out)
            return
        if not self._calm(expr, node, state):
            self._settle(self._lead(expr, node, state), node, state, out)
        origins = self._origins(expr, node, state)
        value = self._given(expr, node, state)
        new: ast.stmt = ast.Return(value)
        if returns:
            self.ends |= origins
        elif target is not None:
            new = ast.Assign([ast.Name(target, ast.Store())], value)
            state[target] = origins
        out.append(ast.copy_location(new, node))

    def _leave_alone(
        self, node: ast.stmt, target: str | None, state: State, out: list[ast.stmt]
    ) -> None:
        if isinstance(node, ast.AnnAssign) and node.value is None:  # assigns nothing
            out.append(node)
            return
        if not self._is_calm(node, state):
            value = getattr(node, "value", None)
            first = self._lead(value, node, state) if isinstance(value, ast.expr) else set()
            self._settle(first, node, state, out)
        if isinstance(node, ast.AugAssign) and target in state:
            read = helper("value", [ast.Name(target, ast.Load())])
            unwrapped = ast.Assign([ast.Name(target, ast.Store())], read)
            out.append(ast.copy_location(unwrapped, node))
        out.append(_Reader(self, node, state).generic_visit(node))  # type: ignore[arg-type]
        for name in stored(node):
            state.pop(name, None)

    def _if(self, node: ast.If, state: State, out: list[ast.stmt]) -> None:
        if not self._is_still(node.test):
            self._settle(self._lead(node.test, node, state), node, state, out)
        node.test = _Reader(self, node, state).visit(node.test)  # type: ignore[assignment]
        after: State = {}
        for part in ("body", "orelse"):
            inside = dict(state)
            body = self._block(getattr(node, part), inside)
            setattr(node, part, body)
            for name, origins in inside.items() if not ends(body) else ():
                after[name] = after.get(name, NOWHERE) | origins
        state.clear()
        state.update(after)
        out.append(node)

    def _compound(self, node: ast.stmt, state: State, out: list[ast.stmt]) -> None:
        self._settle(set(), node, state, out)
        if not isinstance(node, SCOPES):
            self._closed += 1
            self._inside(node, state)
            self._closed -= 1
        out.append(node)

    def _inside(self, node: ast.AST, state: State) -> None:
        """Rewrite what a compound statement holds; its variables may hold what they held before."""
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                setattr(node, name, self._block(value, dict(state)))
            elif isinstance(value, list):
                for part in value:
                    if isinstance(part, (ast.excepthandler, ast.withitem, ast.match_case)):
                        self._inside(part, state)
            elif isinstance(value, ast.expr):
                setattr(node, name, _Reader(self, None, state).visit(value))

    def _settle(self, first: set[str], at: ast.stmt, state: State, out: list[ast.stmt]) -> None:
        names: list[ast.expr] = [ast.Name(name, ast.Load()) for name in sorted(first)]
        out.append(ast.copy_location(ast.Expr(helper("settle", names)), at))
        state.update(dict.fromkeys(set(state) - first, NOWHERE))  # to be read, not to be fused

    # Expressions

    def _may(self, e: ast.expr, at: ast.stmt, state: State) -> bool:
        """Whether the value of an expression may be a promise."""
        if isinstance(e, ast.Name):
            return e.id in state and self._consumed(e.id, at)
        if isinstance(e, ast.BinOp):
            sides = self._may(e.left, at, state), self._may(e.right, at, state)
            return isinstance(e.op, ast.Add) and any(sides)
        taken = self._taken(e)
        return taken is not None and taken[2]

    def _origins(self, e: ast.expr, at: ast.stmt, state: State) -> Origins:
        """Where it comes from then."""
        if isinstance(e, ast.Name):
            return state[e.id] if self._may(e, at, state) else NOWHERE
        if isinstance(e, ast.BinOp):
            sides = self._origins(e.left, at, state) | self._origins(e.right, at, state)
            return frozenset((path, True) for path, _ in sides)
        taken = self._taken(e)
        return NOWHERE if taken is None or not taken[2] else frozenset({(_text(taken[0]), False)})

    def _given(self, e: ast.expr, at: ast.stmt, state: State) -> ast.expr:
        """The expression with live calls; where it may be a promise it is one."""
        if isinstance(e, ast.BinOp) and self._may(e, at, state):
            calm = self._calm(e.right, at, state)
            left, right = self._given(e.left, at, state), self._given(e.right, at, state)
            if not calm:  # it runs after the layer
                left = helper("value", [left])
            inplace = [ast.Constant(True)] if e is getattr(at, "total", None) else []
            return ast.copy_location(helper("add", [left, right, *inplace]), e)
        taken = self._taken(e)
        if taken is not None:
            assert isinstance(e, ast.Call)
            new = self._replaced(e, taken[0], taken[1], at, state)
            # What is an activation today may be an identity later.
            return new if taken[2] else ast.copy_location(helper("value", [new]), e)
        if self._may(e, at, state):
            return e
        return _Reader(self, at, state).visit(e)  # type: ignore[return-value]

    def _taken(self, e: ast.expr) -> tuple[ast.expr, ast.expr, bool] | None:
        """What a call calls, on what, and whether a promise may come back.

        ``None`` for a call to be left alone.
        """
        if not isinstance(e, ast.Call):
            return None
        f = e.func
        if isinstance(f, ast.Attribute) and f.attr in METHODS and not e.args and not e.keywords:
            return ast.Constant(f.attr), f.value, False
        role = self._role(f) if is_plain(e) else None
        if role is None or (role == "live" and len(e.args) > 1):
            return None
        return f, e.args[0], role == "live"

    def _replaced(
        self, e: ast.Call, f: ast.expr, x: ast.expr, at: ast.stmt, state: State
    ) -> ast.expr:
        self.sites.add((_text(f), self._origins(x, at, state)))
        given = self._given(x, at, state)
        if isinstance(f, ast.Constant):
            return ast.copy_location(helper("method", [f, given]), e)
        keywords = []
        if e.args[1:]:
            keywords.append(ast.keyword("more", ast.Tuple(e.args[1:], ast.Load())))
        if e.keywords:
            names: list[ast.expr | None] = [ast.Constant(k.arg) for k in e.keywords]
            options = ast.Dict(names, [k.value for k in e.keywords])
            keywords.append(ast.keyword("options", options))
        return ast.copy_location(helper("call", [f, given], keywords), e)

    def _consumed(self, name: str, at: ast.stmt) -> bool:
        """Whether a variable is read once in a statement and never after it."""
        if self._closed:
            return False
        reads = sum(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)
                    for n in ast.walk(at))  # fmt: skip
        dead = name == target_of(at) or name not in self._live[at]
        return dead and reads + isinstance(at, ast.AugAssign) * (name == target_of(at)) == 1

    def _is_calm(self, node: ast.stmt, state: State) -> bool:
        """Whether a statement runs nothing but loads and live calls, and edits nothing."""
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and target_of(node) is None:
            return False
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.Return, ast.Expr)):
            return node.value is None or self._calm(node.value, node, state)
        return isinstance(node, ast.Pass)

    def _calm(self, e: ast.expr, at: ast.stmt, state: State) -> bool:
        """Whether evaluating an expression runs nothing but loads and live calls."""
        taken = self._taken(e)
        if taken is not None:
            return self._quiet(taken[0]) and self._calm(taken[1], at, state)
        if isinstance(e, ast.BinOp) and self._may(e, at, state):
            return self._calm(e.left, at, state) and self._calm(e.right, at, state)
        return self._quiet(e)

    def _lead(self, e: ast.expr, at: ast.stmt, state: State) -> set[str]:
        """Variables that an expression consumes before it runs anything else."""
        if self._calm(e, at, state):
            return {n for n in mentioned(e) if n in state and self._consumed(n, at)}
        if isinstance(e, ast.Call):
            return self._lead(e.args[0], at, state) if e.args and self._quiet(e.func) else set()
        if isinstance(e, (ast.Attribute, ast.Subscript)):
            return self._lead(e.value, at, state)
        return self._lead(e.left, at, state) if isinstance(e, ast.BinOp) else set()

    def _is_still(self, e: ast.expr) -> bool:
        """Whether a test runs no code of the user's: comparisons by ``is``."""
        if isinstance(e, ast.Compare):
            by_identity = all(isinstance(op, (ast.Is, ast.IsNot)) for op in e.ops)
            return by_identity and all(map(self._quiet, (e.left, *e.comparators)))
        if isinstance(e, ast.BoolOp):
            return all(map(self._is_still, e.values))
        return (
            isinstance(e, ast.UnaryOp) and isinstance(e.op, ast.Not) and self._is_still(e.operand)
        )


class _Reader(ast.NodeTransformer):
    """Lets an expression see values only."""

    def __init__(self, rewriter: Rewriter, at: ast.stmt | None, state: State) -> None:
        self._rewriter, self._at, self._state = rewriter, at, state

    def visit(self, node: ast.AST) -> ast.AST:
        """Replace what is consumed inside, and read the rest."""
        if isinstance(node, SCOPES):
            return node
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            name = ast.copy_location(ast.Name(node.id, node.ctx), node)
            return (
                ast.copy_location(helper("value", [name]), node) if node.id in self._state else node
            )
        if isinstance(node, (ast.Call, ast.BinOp)) and self._at is not None:
            if self._rewriter._may(node, self._at, self._state):
                given = self._rewriter._given(node, self._at, self._state)
                return ast.copy_location(helper("value", [given]), node)
            if self._rewriter._taken(node) is not None:
                return self._rewriter._given(node, self._at, self._state)
        return self.generic_visit(node)


def _text(f: ast.expr) -> str:
    return f".{f.value!s}" if isinstance(f, ast.Constant) else ast.unparse(f)
