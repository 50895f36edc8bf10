"""``l1bn doctor``: what can run on this machine, why something cannot, and what it gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from l1bn.doctor.diagnosis import diagnose, missing_requirements

__all__ = ["doctor_command", "missing_requirements"]


@dataclass(frozen=True)
class _Options:
    """Print versions, backends, extras, processor and threads."""

    bench: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """also time the native kernels against BatchNorm, for ten seconds"""


def doctor_command(arguments: list[str]) -> int:
    """Print the diagnosis; return 0, for a missing part is no failure."""
    options = tyro.cli(_Options, prog="l1bn doctor", args=arguments)
    diagnose()
    if options.bench:
        from l1bn.doctor.speed import bench

        bench()
    return 0
