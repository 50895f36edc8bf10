"""The report of a comparison: sentences, a table for the terminal, plots and a page of HTML."""

from __future__ import annotations

from l1bn.recipes.report.page import REPORT, write_report
from l1bn.recipes.report.terminal import results_table
from l1bn.recipes.report.verdict import verdict

__all__ = ["REPORT", "results_table", "verdict", "write_report"]
