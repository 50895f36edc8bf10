"""Conversion of models: one line, in place, with a report.

Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
"""

from l1bn.convert.calibrate import calibrate_
from l1bn.convert.check import CheckReport, check
from l1bn.convert.convert import convert_, convert_sync_, revert_
from l1bn.convert.fold import fold_
from l1bn.convert.report import CalibrationReport, ConversionReport

__all__ = [
    "CalibrationReport",
    "CheckReport",
    "ConversionReport",
    "calibrate_",
    "check",
    "convert_",
    "convert_sync_",
    "fold_",
    "revert_",
]
