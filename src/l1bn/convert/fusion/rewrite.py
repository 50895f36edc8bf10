"""The one edit of a forward's source: ``f(x)`` and ``a + b`` become calls of the live decision.

A walk over the statements in the order in which they run keeps two sets of local variables: those
that may *hold* a promise, and those whose promise may still be *open*. An open promise is settled
before any statement that could notice. A promise never crosses the edge of a loop, a ``with`` or a
``try``, is read through ``value`` wherever it is not consumed, and is consumed only where the
variable is dead afterwards.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from l1bn.convert.fusion.liveness import live_after, mentioned
from l1bn.convert.fusion.syntax import (
    EARLIER,
    HELPER,
    LEAVE,
    SCOPES,
    earlier,
    expression,
    helper,
    is_plain,
    plain_names,
    stored,
    target_of,
    tuple_of,
    without,
)  # fmt: skip
from l1bn.nn.fusable import METHODS

#: Where a promise may come from: the callee's source, and whether something was added since.
Origins = frozenset[tuple[str, bool]]
NOWHERE: Origins = frozenset()


def origins_of(e: ast.AST) -> Origins:
    """Where the promise that an expression may give comes from."""
    return getattr(e, "l1bn_origins", NOWHERE)


def _from(e: ast.expr, origins: Origins) -> ast.expr:
    e.l1bn_origins = origins  # type: ignore[attr-defined]
    return e


@dataclass
class State:
    """What is known at a point of the walk: names assigned, holding a promise, and open."""

    assigned: set[str]
    holds: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    origins: dict[str, Origins] = field(default_factory=dict)

    def copy(self) -> State:
        """The same, to go on apart."""
        return State(set(self.assigned), set(self.holds), set(self.open), dict(self.origins))

    def set(self, name: str, holds: bool, origins: Origins = NOWHERE) -> None:
        """Note an assignment."""
        self.assigned.add(name)
        self.origins[name] = origins
        for names in (self.holds, self.open):
            names.add(name) if holds else names.discard(name)


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
        self._given: list[str] = []  # names of promises that the source has no name for
        self.sites: set[tuple[str, Origins]] = set()
        self.ends: set[tuple[str, bool]] = set()

    def rewrite(self, definition: ast.FunctionDef) -> None:
        """Rewrite a forward in place."""
        self._live = live_after(definition.body)
        self._names = plain_names(definition)
        arguments = definition.args
        every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        state = State({a.arg for a in every}, open={EARLIER})
        definition.body, ends = self._block(definition.body, state)
        if not ends:
            self._settle(state, state.open, definition.body[-1], definition.body)
        arguments.kwonlyargs += [ast.arg(name) for name in (HELPER, LEAVE, EARLIER)]
        arguments.kw_defaults += [ast.Constant(None) for _ in range(3)]
        ast.fix_missing_locations(definition)

    # Statements

    def _block(self, body: list[ast.stmt], state: State) -> tuple[list[ast.stmt], bool]:
        out: list[ast.stmt] = []
        for node in body:
            if isinstance(node, ast.If):
                ends = self._if(node, state, out)
            elif any(isinstance(getattr(node, n, None), list) for n in ("body", "cases")):
                ends = self._compound(node, state, out)
            else:
                ends = self._simple(node, state, out)
            if ends:
                return out, True
            state.holds &= self._live[node]  # kept or not, the others are not read again
        return out, False

    def _simple(self, node: ast.stmt, state: State, out: list[ast.stmt]) -> bool:
        target = target_of(node)
        returns = isinstance(node, ast.Return)
        expr = expression(node)
        apart = self._closed or not (returns or target in self._names)
        result = None if apart or expr is None else self._promise(expr, node, state)
        if result is None:
            self._leave_alone(node, target, state, out)
            return isinstance(node, (ast.Return, ast.Raise, ast.Break, ast.Continue))
        assert expr is not None
        new, holds = result
        unread = {target} - mentioned(expr)
        self._settle(state, state.open & unread if self._calm(expr) else state.open, node, out)
        if target is not None:
            new_node: ast.stmt = ast.Assign([ast.Name(target, ast.Store())], new)
            for name in mentioned(expr):
                state.open.discard(name)
            state.set(target, holds, origins_of(new))
        else:
            self._settle(state, state.open - mentioned(expr) - {EARLIER}, node, out)
            self.ends |= origins_of(new)
            new_node = ast.Return(
                ast.Call(ast.Name(LEAVE, ast.Load()), [new], []) if holds else new
            )
        out.append(ast.fix_missing_locations(ast.copy_location(new_node, node)))
        return returns

    def _leave_alone(
        self, node: ast.stmt, target: str | None, state: State, out: list[ast.stmt]
    ) -> None:
        value = getattr(node, "value", None)
        harmless = isinstance(node, ast.Pass) or (
            isinstance(node, (ast.Assign, ast.Expr))
            and isinstance(value, ast.expr)
            and (target is not None or isinstance(node, ast.Expr))
            and self._quiet(value)
            and not mentioned(node) & state.holds
        )
        if harmless:  # what it overwrites was promised all the same
            self._settle(state, state.open & stored(node), node, out)
        else:
            lead = set() if value is None else self._lead(value, node, state)
            self._settle(state, state.open - lead, node, out)
        if isinstance(node, ast.AugAssign) and target in state.holds:
            self._unwrap(state, [target], node, out)
        out.append(_Reader(self, node, state).generic_visit(node))  # type: ignore[arg-type]
        for name in stored(node):
            state.set(name, False)

    def _if(self, node: ast.If, state: State, out: list[ast.stmt]) -> bool:
        if not self._still(node.test) or mentioned(node.test) & state.holds:
            self._settle(state, state.open, node, out)
        node.test = self._read(node.test, node, state)
        states = [state.copy(), state.copy()]
        node.body, ends = self._block(node.body, states[0])
        node.orelse, else_ends = self._block(node.orelse, states[1])
        reached = [s for s, end in zip(states, (ends, else_ends), strict=True) if not end]
        out.append(node)
        if not reached:
            return True
        assigned = set.intersection(*(s.assigned for s in reached))
        for s, part in zip(states, (node.body, node.orelse), strict=True):
            if s in reached:
                self._unwrap(s, s.holds - assigned, node, part)
                self._settle(s, s.open - assigned - {EARLIER}, node, part)
        state.assigned = assigned
        state.holds = set().union(*(s.holds for s in reached))
        state.open = set().union(*(s.open for s in reached))
        for name in state.assigned:
            state.origins[name] = NOWHERE.union(*(s.origins.get(name, NOWHERE) for s in reached))
        return False

    def _compound(self, node: ast.stmt, state: State, out: list[ast.stmt]) -> bool:
        if isinstance(node, SCOPES):
            self._leave_alone(node, None, state, out)
            return False
        self._settle(state, state.open, node, out)
        self._unwrap(state, set(state.holds), node, out)
        self._closed += 1
        self._inside(node, state)
        self._closed -= 1
        out.append(node)
        return False

    def _inside(self, node: ast.AST, state: State) -> None:
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                setattr(node, name, self._block(value, State(set(state.assigned)))[0])
            elif isinstance(value, list):
                for part in value:
                    if isinstance(part, (ast.excepthandler, ast.withitem, ast.match_case)):
                        self._inside(part, state)
            elif isinstance(value, ast.expr) and not isinstance(node, ast.match_case):
                setattr(node, name, _Reader(self, None, State(set())).visit(value))

    def _settle(
        self, state: State, names: Iterable[str], at: ast.stmt, out: list[ast.stmt]
    ) -> None:
        names = sorted(names)
        if names:
            call = ast.Expr(helper("settle", [earlier(name) for name in names]))
            out.append(ast.fix_missing_locations(ast.copy_location(call, at)))
        state.open -= set(names)

    def _unwrap(
        self, state: State, names: Iterable[str], at: ast.stmt, out: list[ast.stmt]
    ) -> None:
        for name in sorted(names):
            read = helper("value", [ast.Name(name, ast.Load())])
            node = ast.Assign([ast.Name(name, ast.Store())], read)
            out.append(ast.fix_missing_locations(ast.copy_location(node, at)))
            state.set(name, False)

    # Expressions

    def _read(self, e: ast.expr, at: ast.stmt, state: State) -> ast.expr:
        """The expression, which sees values only."""
        read: ast.expr = _Reader(self, at, state).visit(e)  # type: ignore[assignment]
        return read

    def _promise(self, e: ast.expr, at: ast.stmt, state: State) -> tuple[ast.expr, bool] | None:
        """The expression with calls replaced, and whether it may be a promise."""
        if isinstance(e, ast.Name):
            if e.id not in state.holds or not self._consumed(e.id, at):
                return None
            return _from(e, state.origins.get(e.id, NOWHERE)), True
        if isinstance(e, ast.BinOp) and isinstance(e.op, ast.Add):
            return self._sum(e, at, state)
        if not isinstance(e, ast.Call):
            return None
        taken = self._taken(e)
        if taken is None:
            return None
        f, argument, live = taken
        inner = self._promise(argument, at, state)
        if not (live or state.open or (inner and inner[1])):
            return None
        x = inner[0] if inner else self._read(argument, at, state)
        return self._replaced(e, f, x, state, live), live

    def _taken(self, e: ast.Call) -> tuple[ast.expr, ast.expr, bool] | None:
        """What a call calls, on what, and whether a promise may come back.

        ``None`` for a call to be left alone.
        """
        f = e.func
        if isinstance(f, ast.Attribute) and f.attr in METHODS and not e.args and not e.keywords:
            return ast.Constant(f.attr), f.value, False
        role = self._role(f) if is_plain(e) else None
        if role is None or (role == "live" and len(e.args) > 1):
            return None
        return f, e.args[0], role == "live"

    def _replaced(
        self, e: ast.Call, f: ast.expr, x: ast.expr, state: State, live: bool
    ) -> ast.expr:
        others = sorted(state.open - mentioned(e))
        text = f".{f.value!s}" if isinstance(f, ast.Constant) else ast.unparse(f)
        self.sites.add((text, origins_of(x)))
        keywords = []
        if e.args[1:]:
            keywords.append(ast.keyword("more", ast.Tuple(e.args[1:], ast.Load())))
        if e.keywords:
            names: list[ast.expr | None] = [ast.Constant(k.arg) for k in e.keywords]
            options = ast.Dict(names, [k.value for k in e.keywords])
            keywords.append(ast.keyword("options", options))
        args = [f, x, *([tuple_of(others)] if others else [])]
        new = ast.copy_location(helper("call" if live else "finish", args, keywords), e)
        return _from(new, frozenset({(text, False)})) if live else new

    def _sum(self, e: ast.BinOp, at: ast.stmt, state: State) -> tuple[ast.expr, bool] | None:
        left = self._promise(e.left, at, state)
        given = None  # a promise that is given here, before the other side runs
        if left and left[1] and not isinstance(e.left, ast.Name) and not self._quiet(e.right):
            given = f"{HELPER}_{len(self._given)}"
            state.open.add(given)
        right = self._promise(e.right, at, state)
        held = [part is not None and part[1] for part in (left, right)]
        a = left[0] if left else self._read(e.left, at, state)
        b = right[0] if right else self._read(e.right, at, state)
        if given is not None:
            state.open.discard(given)
            if self._calm(e.right):
                self._given.append(given)
                a = _from(ast.NamedExpr(ast.Name(given, ast.Store()), a), origins_of(a))
            else:
                a, b = helper("value", [a]), without(b, given)
        if not any(held):
            return None
        inplace = (
            [ast.Constant(True)]
            if isinstance(at, ast.AugAssign) and e is getattr(at, "total", None)
            else []
        )
        origins = frozenset((path, True) for path, _ in origins_of(a) | origins_of(b))
        return _from(ast.copy_location(helper("add", [a, b, *inplace]), e), origins), True

    def _consumed(self, name: str, at: ast.stmt) -> bool:
        """Whether a variable is read once in a statement and never after it."""
        reads = sum(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load)
                    for n in ast.walk(at))  # fmt: skip
        dead = name == target_of(at) or name not in self._live[at]
        return dead and reads + isinstance(at, ast.AugAssign) * (name == target_of(at)) == 1

    def _calm(self, e: ast.expr) -> bool:
        """Whether evaluating an expression runs nothing but loads and the live decision."""
        if isinstance(e, ast.Call):
            taken = self._taken(e)
            return taken is not None and self._quiet(taken[0]) and self._calm(taken[1])
        if isinstance(e, ast.BinOp):
            return isinstance(e.op, ast.Add) and self._calm(e.left) and self._calm(e.right)
        return self._quiet(e)

    def _lead(self, e: ast.expr, at: ast.stmt, state: State) -> set[str]:
        """Variables that an expression consumes before it runs anything else."""
        if self._promise(e, at, state.copy()) is not None and self._calm(e):
            return set(mentioned(e)) & state.open
        if isinstance(e, ast.Call) and e.args and self._quiet(e.func):
            return self._lead(e.args[0], at, state)
        if isinstance(e, (ast.Attribute, ast.Subscript)):
            return self._lead(e.value, at, state)
        return self._lead(e.left, at, state) if isinstance(e, ast.BinOp) else set()

    def _still(self, e: ast.expr) -> bool:
        """Whether a test runs no code of the user's: comparisons by ``is``."""
        if isinstance(e, ast.Compare):
            by_identity = all(isinstance(op, (ast.Is, ast.IsNot)) for op in e.ops)
            return by_identity and all(map(self._quiet, (e.left, *e.comparators)))
        if isinstance(e, ast.BoolOp):
            return all(map(self._still, e.values))
        return isinstance(e, ast.UnaryOp) and isinstance(e.op, ast.Not) and self._still(e.operand)


class _Reader(ast.NodeTransformer):
    """Lets an expression see values only."""

    def __init__(self, rewriter: Rewriter, at: ast.stmt | None, state: State) -> None:
        self._rewriter, self._at, self._state = rewriter, at, state

    def visit(self, node: ast.AST) -> ast.AST:
        """Replace what is consumed inside, and read the rest."""
        if isinstance(node, SCOPES):
            return node
        if isinstance(node, (ast.Call, ast.BinOp)) and self._at is not None:
            found = self._rewriter._promise(node, self._at, self._state)
            if found is not None:
                return (
                    ast.copy_location(helper("value", [found[0]]), node) if found[1] else found[0]
                )
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            if node.id in self._state.holds:
                return ast.copy_location(helper("value", [node]), node)
            return node
        return self.generic_visit(node)
