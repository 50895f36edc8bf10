"""The syntax of Liberty files: text to groups and attributes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from l1bn.errors import UserError

_TOKEN = re.compile(r'"[^"]*"|[A-Za-z0-9_.+\-*!&|^\'\[\]]+|[{}();:,=]', re.S)
_COMMENT = re.compile(r"/\*.*?\*/", re.S)


class LibertyError(UserError):
    """A library that cannot be read."""


@dataclass
class Group:
    """A Liberty group: name(arguments) { attributes and groups }."""

    kind: str
    arguments: list[str]
    attributes: dict[str, str] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def all(self, kind: str) -> Iterator[Group]:
        """The groups of one kind inside this one."""
        return (g for g in self.groups if g.kind == kind)

    def first(self, kind: str) -> Group | None:
        """The first group of a kind, or None."""
        return next(self.all(kind), None)


def parse(text: str) -> Group:
    """Parse Liberty text into its top group.

    Raises:
        LibertyError: If braces do not match or no library group is found.
    """
    tokens = _TOKEN.findall(_COMMENT.sub(" ", text).replace("\\\n", " "))
    top = Group("file", [])
    stack, i, count = [top], 0, len(tokens)
    while i < count:
        token = tokens[i]
        if token == "}":
            stack.pop()
            i += 1
        elif token == ";":
            i += 1
        elif i + 1 < count and tokens[i + 1] == ":":
            end = _end_of_value(tokens, i + 2)
            stack[-1].attributes[token] = " ".join(tokens[i + 2 : end]).strip('"')
            i = end
        elif i + 1 < count and tokens[i + 1] == "(":
            i = _group_or_call(tokens, i, stack)
        else:
            i += 1
        if not stack:
            raise LibertyError("expected balanced braces, got a closing one too many")
    if not top.groups or top.groups[0].kind != "library":
        raise LibertyError("expected a library group; is this a Liberty (.lib) file?")
    return top.groups[0]


def _end_of_value(tokens: list[str], start: int) -> int:
    """Index after a value: its semicolon or, where that is missing, the next statement."""
    end, count = start, len(tokens)
    while end < count and tokens[end] not in ";}":
        if end > start and end + 1 < count and tokens[end + 1] in (":", "("):
            break
        end += 1
    return end


def _group_or_call(tokens: list[str], i: int, stack: list[Group]) -> int:
    end = tokens.index(")", i)
    arguments = [t.strip('"') for t in tokens[i + 2 : end] if t != ","]
    if end + 1 < len(tokens) and tokens[end + 1] == "{":
        group = Group(tokens[i], arguments)
        stack[-1].groups.append(group)
        stack.append(group)
        return end + 2
    stack[-1].attributes[tokens[i]] = " , ".join(arguments)
    return end + 1
