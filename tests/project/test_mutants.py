"""The text that each of the mistakes of ``make mutants`` replaces is in the sources, once."""

from __future__ import annotations

import pytest

from mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_applies(mutant: Mutant) -> None:
    assert mutant.source.read_text().count(mutant.old) == 1
    for test in mutant.tests:
        assert (ROOT / test.partition("::")[0]).exists()
