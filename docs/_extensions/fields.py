"""A named tuple's fields stand in its signature; their "Alias for field number 0" is left out."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def skip(*event: Any) -> bool | None:
    """Skip a field that has no text of its own: the fourth of what Sphinx hands over."""
    return True if type(event[3]).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the rule."""
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
