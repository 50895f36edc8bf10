"""Blocks at random, from a grammar of things that people write in a forward."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

_LAYERS = ["self.bn", "self.other", "self.branch", "self.tail", "self.last", "self.whole"]
_ACTS = [
    "self.act", "self.six", "F.relu", "torch.relu", "F.relu6", "self.tanh", "F.silu", "self.looked",
    "self.leaky", "F.softplus",
]  # fmt: skip
_OTHER = [
    "self.conv",
    "self.same",
    "self.drop",
    "helper",
    "self.note",
    "Backwards.apply",
    "self.body",
]


class Writer:
    """Writes one class.

    Args:
        seed: the same class for the same seed.
    """

    def __init__(self, seed: int) -> None:
        self._random, self._seed = random.Random(seed), seed
        self._lines: list[str] = []
        self._names = ["x"]

    def write(self) -> str:
        """Source of the class."""
        self._block(2, self._random.randint(2, 6))
        ends = [f"return {self._expr(2)}", f"return {self._var()}", f"return {self._pattern()}"]
        self._add(2, self._random.choice(ends))
        text = "\n".join(self._lines)
        return f"class Block{self._seed}(Parts):\n    def forward(self, x):\n{text}\n\n\n"

    def _add(self, depth: int, line: str) -> None:
        self._lines.append("    " * depth + line)

    def _var(self) -> str:
        return self._random.choice([*self._names[-3:], "x"])

    def _target(self) -> str:
        if self._random.random() < 0.6:
            return self._random.choice(self._names)
        return self._random.choice("abcd")

    def _block(self, depth: int, count: int) -> None:
        for _ in range(count):
            self._statement(depth)

    def _statement(self, depth: int) -> None:
        draw = self._random.random()
        if draw < 0.30:
            self._assign(depth, self._pattern())
        elif draw < 0.5:
            self._assign(depth, self._expr(2))
        elif draw < 0.62:
            self._neighbours(depth)
        elif draw < 0.82 or depth > 3:
            self._add(depth, self._small())
        else:
            self._compound(depth)

    def _assign(self, depth: int, value: str) -> None:
        name = self._target()
        self._add(depth, f"{name} = {value}")
        if depth == 2:
            self._names.append(name)

    def _neighbours(self, depth: int) -> None:
        """Layer, perhaps an addition, activation; perhaps something between."""
        name, layer, act = self._target(), self._pick(_LAYERS), self._pick(_ACTS)
        source = self._expr(1)
        self._add(depth, f"{name} = {layer}({source})")
        others = [n for n in self._names if n != name] or ["x"]
        for _ in range(2):
            draw = self._random.random()
            if draw < 0.3:
                self._add(depth, f"{name} += {self._pick(others)}")
            elif draw < 0.4:
                self._add(depth, f"{name} = {self._pick(others)} + {name}")
            elif draw < 0.5:
                self._add(depth, f"{name} = {name} + {self._pick(_LAYERS)}({self._pick(others)})")
            elif draw < 0.62:
                self._add(depth, self._small())
        other = self._pick([n for n in "abcd" if n != name])  # then the name may be read again
        end = [f"{name} = {act}({name})", f"{name} = {name}.relu()", f"{other} = {act}({name})"]
        draw = self._random.random()
        self._add(depth, self._pick(end) if depth > 2 or draw < 0.9 else f"return {act}({name})")
        if depth == 2 and end[2] == self._lines[-1].strip():
            self._names.append(other)
        if depth == 2:
            self._names.append(name)

    def _small(self) -> str:
        v = self._var()
        return self._pick([
            "self.note(None)",
            "self.count += 1",
            f"self.log.append(float({v}.detach().sum()))",
            f"{v}.data.mul_(1)",
            f"{v} = {v} * 1; {v}.mul_(0.9)",
            f"{v} = {v}.clone(); {v} += 1",
            f"{v}.add_(0.25)",
            f"self.kept = {v}.detach()",
            "if self.rng.random() < 0.5: self.count += 3",
            "self.bn.momentum = 0.3",
            "self.other(x)",
            "pass",
            f"e = {v}",
            f"x = {v}",
            f"g = lambda: {v}",
            f"{v} = self.act(y := self.bn({v})) + y",
            f"{v} = {v} + [self.bn(w) for w in ({v},)][0]",
            f"{v} = torch.rand(1, dtype=torch.float64) * {v}",
            "r = F.relu if not self.flag else F.gelu; x = r(self.bn(x))",
            f"self.act.inplace = {v}.sum() > 0",
            f"assert {v}.shape[0] == 4",
            f"del_me = {v}; del del_me",
        ])  # fmt: skip

    def _compound(self, depth: int) -> None:
        v = self._var()
        head = self._pick([
            "if self.flag:", "if self.training:", f"if {v}.sum() > 0:", "if x is not None:",
            "for part in self.parts:", "for _ in range(2):", "with torch.no_grad():",
            "with torch.enable_grad():", "try:", "while self.count < 3:",
            "with torch.autocast('cpu', enabled=False):",
        ])  # fmt: skip
        self._add(depth, head)
        if head.startswith("for part"):
            self._add(depth + 1, f"{v} = part({v})")
        elif head.startswith("while"):
            self._add(depth + 1, "self.count += 1")
        self._block(depth + 1, self._random.randint(1, 3))
        if head == "try:":
            self._add(depth, "finally:")
            self._add(depth + 1, self._small())
        elif head.startswith("if") and self._random.random() < 0.6:
            self._add(depth, "else:")
            self._block(depth + 1, self._random.randint(1, 2))

    def _pick(self, choices: list[str]) -> str:
        return self._random.choice(choices)

    def _pattern(self) -> str:
        layer, act, e = self._pick(_LAYERS), self._pick(_ACTS), self._expr(1)
        r = self._pick([self._var(), self._expr(1), f"{self._pick(_LAYERS)}({self._var()})"])
        return self._pick([
            f"{act}({layer}({e}))",
            f"{act}({layer}({e}) + {r})",
            f"{act}({r} + {layer}({e}))",
            f"{layer}({e}).relu()",
            f"{layer}({e}) + {r}",
            f"{layer}({e})",
            f"F.relu({layer}({e}), inplace=True)",
            self._pick([f"F.leaky_relu({layer}({e}), 0.2)", f"F.elu({layer}({e}), alpha=0.5)",
                        f"F.gelu({layer}({e}), approximate='tanh')", f"{layer}({e}).sigmoid_()",
                        f"F.silu({layer}({e}), inplace=True)", f"F.hardswish({layer}({e}), True)"]),
            f"self.inplace({layer}({e}))",
            f"{act}(self.same({layer}({e})))",
        ])  # fmt: skip

    def _expr(self, depth: int) -> str:
        if depth == 0 or self._random.random() < 0.3:
            return self._var()
        e = self._expr(depth - 1)
        return self._pick([
            f"{self._pick(_LAYERS)}({e})", f"{self._pick(_ACTS)}({e})",
            f"{self._pick(_OTHER)}({e})", f"{self._pick(_LAYERS)}({e})",
            f"({e} + {self._var()})", f"({e} if self.flag else {self._var()})", f"({e} * 0.5)",
            f"checkpoint(self.body, {e}, use_reentrant=False)", f"self.parts[0]({e})",
            self._pick([f"F.relu({e}, inplace=True)", f"({e}).relu_()", f"torch.relu_({e})"]),
            f"{e}.clamp(-2, 2)", f"torch.cat([({e})[:2], {self._var()}[2:]])",
        ])  # fmt: skip


def load(folder: Path, seed: int, text: str) -> Any:
    """A block in a file of its own, as a small file is fused sooner."""
    name = f"generated_{seed}"
    path = folder / f"{name}.py"
    path.write_text("from block_parts import *\n\n" + text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, f"Block{seed}")
