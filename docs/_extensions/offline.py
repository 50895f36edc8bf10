"""Finished pages load nothing from elsewhere: scripts, styles or images that would are reported."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

_LOADED = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^>]*>""")
_STYLE = re.compile(r"""<link\b[^>]*\bhref=["']?(?:https?:)?//[^>]*>""")


def check(app: Sphinx, error: Exception | None) -> None:
    """Warn of each address that a page would load."""
    if error is not None or app.builder.format != "html":
        return
    for page in sorted(Path(app.outdir).rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        for found in (*_LOADED.findall(text), *_STYLE.findall(text)):
            logging.getLogger(__name__).warning("%s loads %s", page.name, found)


def setup(app: Sphinx) -> dict[str, bool]:
    """Check once every page is written."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
