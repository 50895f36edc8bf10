"""``l1bn doctor``: what can run on this machine, why something cannot, and what it gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from l1bn.doctor.diagnosis import diagnose, missing_requirements
from l1bn.errors import UserError

__all__ = ["doctor_command", "missing_requirements"]


@dataclass(frozen=True)
class _Options:
    """Print versions, backends, extras, processor and threads."""

    bench: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """also time the native kernels against BatchNorm, for ten seconds"""
    warm: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """also compile the GPU kernels for ResNets' layers, which a first step then need not"""
    batch: int = 256
    """images in a batch of those layers"""


def doctor_command(arguments: list[str]) -> int:
    """Print the diagnosis; return 0, for a missing part is no failure."""
    options = tyro.cli(_Options, prog="l1bn doctor", args=arguments)
    diagnose()
    if options.bench:
        from l1bn.doctor.speed import bench

        bench()
    if options.warm:
        from l1bn.doctor.warm import warm

        if options.batch < 1:
            raise UserError(f"expected a batch of at least one image, got --batch {options.batch}")
        warm(options.batch)
    return 0
