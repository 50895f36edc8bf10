"""The tables of the docs are those of results/."""

from __future__ import annotations

import pytest

from results_tables import BLOCK, PAGES, ROOT, filled


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_what_the_results_say(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert BLOCK.search(text)
    assert filled(text) == text, "run python benchmarks/results_tables.py"


def test_a_changed_figure_is_put_right():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert filled(text.replace("1.78×", "2.78×")) == text
