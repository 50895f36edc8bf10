"""Verilog that a person and a linter can read, from what Amaranth's back end writes."""

from __future__ import annotations

import re

_ESCAPED = re.compile(r"\\(\S+) ")
_TRIGGER = re.compile(r"^  reg (\\\$auto\$verilog_backend\S+ ) = 0;\n", re.M)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")


def readable(text: str) -> str:
    r"""Plain names, and blocks that every simulator evaluates.

    * Escaped names (``\$12 ``, ``\path.product ``, ``\final ``) become plain ones.
    * A combinational block begins with an empty ``if`` on a register that never changes: some
      simulators then never run it, and what it drives stays X until an input moves. The reset, or
      the clock where there is none, takes the register's place: it always moves.
    * Every case has a default: what a block drives has its value before the case.
    """
    lines = (line for line in text.splitlines() if not line.startswith("/* Generated"))
    modules = re.split(r"(?m)^(?=module )", "\n".join(lines).strip() + "\n")
    plain = _Names(_WORD.findall(_ESCAPED.sub(" ", text)))
    return _complete("".join(_ESCAPED.sub(plain, _awake(module)) for module in modules))


def _awake(module: str) -> str:
    found = _TRIGGER.search(module)
    if found is None:
        return module
    declared = re.findall(r"(?m)^  input (\w+);", module)
    moves = next((name for name in ("rst", "clk", "aclk") if name in declared), None)
    if moves is None:  # every input may be still: keep what the back end wrote
        return module
    without = _TRIGGER.sub("", module)
    empty = rf"if ({moves}) begin end"
    return re.sub(r"if \(\\\$auto\$verilog_backend\S+ \) begin end", empty, without)


def _complete(text: str) -> str:
    lines: list[str] = []
    defaults: list[bool] = []  # of the cases that are open, the innermost last
    for line in text.splitlines():
        word = line.strip()
        if word.startswith(("case (", "casez (")):
            defaults.append(False)
        elif word.startswith("default:"):
            defaults[-1] = True
        elif word == "endcase" and not defaults.pop():
            lines.append(line.replace("endcase", "  default: ;"))
        lines.append(line)
    return "\n".join([*lines, ""])


class _Names:
    """Plain names for escaped ones, none of them taken twice."""

    def __init__(self, taken: list[str]) -> None:
        self.taken = {name.lower() for name in taken}
        self.given: dict[str, str] = {}

    def __call__(self, match: re.Match[str]) -> str:
        name = match[1]
        if name not in self.given:
            self.given[name] = self._fresh(name)
        # The blank that ended the escaped name goes; what follows never continues a word.
        return self.given[name]

    def _fresh(self, name: str) -> str:
        plain = re.sub(r"\W+", "_", name).strip("_")
        if not plain or plain[0].isdigit():
            plain = f"n{plain}"
        elif plain == name:  # a word that needed escaping is a keyword
            plain = f"{plain}_it"
        number, candidate = 1, plain
        while candidate.lower() in self.taken:
            number += 1
            candidate = f"{plain}_{number}"
        self.taken.add(candidate.lower())
        return candidate
