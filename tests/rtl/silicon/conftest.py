"""The hand-made library of the tests of timing, power and the reader."""

from __future__ import annotations

import pytest

pytest.importorskip("amaranth", reason="needs pip install l1bn[rtl]")

from l1bn.rtl.silicon import liberty
from l1bn.rtl.silicon.library import Library
from tiny_cells import TINY


@pytest.fixture(scope="module")
def tiny() -> Library:
    return liberty.load(TINY)
