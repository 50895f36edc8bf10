"""Writes the page: markup, style, scripts, the compiled network and examples, in one file."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from l1bn.device.program.build import Build
from l1bn.device.web.module import compile_module

_HERE = Path(__file__).parent
_SCRIPTS = ("base", "picture", "pad", "sources", "network", "examples", "chart", "store", "page")
_LEVELS = 256


@dataclass(frozen=True)
class Shown:
    """What a page needs to know of the data that a network was trained on.

    Attributes:
        name: Its name, for readers.
        classes: Names of the classes, in the order of the logits.
        codes: What becomes of each level of each colour, ``(channels, 256)`` of int8.
        images: Examples that the page keeps, ``(N, channels, height, width)`` of uint8.
        labels: Class of each.
        held: Whether each is kept aside for the test.
        dark: Whether drawings are light on a dark ground.
    """

    name: str
    classes: Sequence[str]
    codes: Tensor
    images: Tensor
    labels: Tensor
    held: Tensor
    dark: bool

    def check(self, build: Build) -> None:
        """Refuse what does not fit the network.

        Raises:
            ValueError: It says what was expected and what came.
        """
        expected: list[tuple[str, object, object]] = [
            ("classes", build.classes, len(self.classes)),
            ("codes of shape", (build.shape[0], _LEVELS), tuple(self.codes.shape)),
            ("images of shape", build.shape, tuple(self.images.shape[1:])),
            ("labels", len(self.images), len(self.labels)),
        ]
        for what, wanted, got in expected:
            if wanted != got:
                raise ValueError(f"expected {wanted} {what}, as the network takes, got {got}")


def page(build: Build, shown: Shown, learn: str) -> str:
    """Return the page as text: one file that asks for nothing else.

    Args:
        build: The network; some of its layers learn.
        shown: What the page knows of the data.
        learn: Which layers learn, for readers.

    Raises:
        ValueError: If nothing of the network learns, or the data does not fit it.
        ToolError: If the compiler of WebAssembly is missing.
    """
    shown.check(build)
    if not build.train:
        raise ValueError('expected layers that learn, got none; choose them, such as "all"')
    scripts = "\n".join((_HERE / "scripts" / f"{name}.js").read_text() for name in _SCRIPTS)
    parts = {
        "STYLE": (_HERE / "page.css").read_text(),
        "LEAD": escape(_lead(shown)),
        "BATCH": str(build.options.batch),
        "MEMORY": f"{build.ram / 1024:,.0f} KiB",
        "FOOTER": escape(_footer(build, learn)),
        "FIGURES": json.dumps(_figures(build, shown)).replace("<", "\\u003c"),
        "CODE": base64.b64encode(compile_module(build)).decode(),
        "WORKER": (_HERE / "scripts" / "worker.js").read_text(),
        "SCRIPTS": scripts,
    }
    text = (_HERE / "page.html").read_text()
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], text)


def _lead(shown: Shown) -> str:
    names = list(shown.classes)
    few = (
        ", ".join(names)
        if len(names) <= 10
        else f"{', '.join(names[:6])} and {len(names) - 6} more"
    )
    return f"It was trained on “{shown.name}” and tells apart {few}."


def _footer(build: Build, learn: str) -> str:
    learned = sum(p.weight.numel() for p in build.layout.learned)
    return (
        f"{learned:,} weights learn here ({learn}): 8-bit products, 16-bit masters, normalization "
        f"by mean absolute deviation. No floating point: {build.arena / 1024:.0f} KiB hold "
        f"activations and errors, {build.layout.size / 1024:.0f} KiB what is learned. The same C "
        "runs on microcontrollers, with the same integers."
    )


def _figures(build: Build, shown: Shown) -> dict[str, object]:
    channels, height, width = build.shape
    return {
        "shape": [height, width, channels],
        "classes": list(shown.classes),
        "batch": build.options.batch,
        "dark": shown.dark,
        "codes": _base64(shown.codes),
        "known": {
            "pixels": _base64(shown.images.permute(0, 2, 3, 1)),
            "labels": shown.labels.tolist(),
            "held": shown.held.bool().tolist(),
        },
    }


def _base64(values: Tensor) -> str:
    raw = values.contiguous().view(torch.uint8).cpu().numpy().tobytes()
    return base64.b64encode(raw).decode()
