"""Conversion of models: one line, in place, with a report.

Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
"""

from l1bn.convert.check import CheckReport, check
from l1bn.convert.convert import convert_, convert_sync_, revert_
from l1bn.model.report import ConversionReport

__all__ = ["CheckReport", "ConversionReport", "check", "convert_", "convert_sync_", "revert_"]
