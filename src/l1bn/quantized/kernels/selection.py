"""Which backend computes on a device."""

from __future__ import annotations

import torch

from l1bn.quantized.kernels.eager import EagerKernels
from l1bn.quantized.kernels.interface import Kernels
from l1bn.quantized.kernels.native import NativeKernels, unavailable

BACKENDS = ("auto", "eager", "cpu")


def check_backend(name: str) -> None:
    """Refuse an unknown name.

    Raises:
        ValueError: If it is none of ``BACKENDS``.
    """
    if name not in BACKENDS:
        raise ValueError(f"expected backend to be one of {BACKENDS}, got {name!r}")


def kernels_for(device: torch.device, name: str = "auto") -> Kernels:
    """Return the fastest backend for a device, or the named one.

    Args:
        device: Where the tensors are.
        name: "auto", "eager" or "cpu".

    Raises:
        ValueError: If the backend is unknown or cannot run there.
    """
    check_backend(name)
    reason = unavailable() if device.type == "cpu" else f"it does not run on {device.type}"
    if name == "cpu" and reason is not None:
        raise ValueError(f'backend "cpu" cannot be used: {reason}; use "auto" or "eager"')
    return EagerKernels() if name == "eager" or reason is not None else NativeKernels()
