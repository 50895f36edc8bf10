"""The device that ``--device`` names."""

from __future__ import annotations

import torch

from l1bn.errors import UserError


def pick_device(name: str) -> torch.device:
    """Return the device for a ``--device`` option.

    Raises:
        UserError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'no device "{name}" here: {reason}') from error
    return device
