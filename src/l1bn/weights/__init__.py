"""Weights of trained networks, rewritten in place: carried over from BN, folded for inference.

Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
"""

from l1bn.weights.calibrate import CalibrationReport, calibrate_
from l1bn.weights.fold import fold_

__all__ = ["CalibrationReport", "calibrate_", "fold_"]
