"""Names that options, configurations and models share. Needs no torch."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Literal

from l1bn.errors import UserError

NormName = Literal["l1", "l2"]
NORMS: tuple[NormName, ...] = ("l1", "l2")
"""L1BN and BatchNorm."""
MODEL_NAMES = ("resnet8", "resnet20", "resnet18", "resnet50", "vgg7", "mobilenet")
"""The classifiers of the zoo."""


def check_model(name: str) -> None:
    """Refuse an unknown name.

    Raises:
        UserError: If ``name`` is not in ``MODEL_NAMES``; it names the nearest ones.
    """
    if name not in MODEL_NAMES:
        near = get_close_matches(name, MODEL_NAMES, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise UserError(
            f'expected --model to be one of {", ".join(MODEL_NAMES)}, got "{name}"{hint}'
        )
