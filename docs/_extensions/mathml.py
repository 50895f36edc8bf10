"""Formulas as MathML: browsers draw them without a script, so that the pages work offline."""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

_TAG = re.compile(r"\\tag\{([^}]*)\}")


def inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(self: HTML5Translator, node: nodes.math_block) -> None:
    r"""Write a formula on lines of its own; ``\tag{3}`` or a row's ``& (3)`` is its number."""
    formula = node.astext()
    number = _TAG.search(formula)
    mathml = convert(_TAG.sub("", formula), display="block")
    shown = f'<span class="eqno">({number[1]})</span>' if number else ""
    self.body.append(f'<div class="math">{mathml}{shown}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, which conf.py chooses."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
