"""How far a run of a classifier is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from l1bn.errors import UserError
from l1bn.recipes.files.saved import fields_of


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: Epoch in progress.
        batch: Batches of it that are done.
        loss_sum: Sum of the losses of its images.
        correct: Correctly classified images in it.
        seen: Images of it that are done.
        seconds: Training time of it [s].
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0

    @classmethod
    def restored(
        cls, path: Path, saved: Mapping[str, object], epochs: int, batches: int, batch_size: int
    ) -> Progress:
        """Return what a checkpoint holds.

        Args:
            path: The checkpoint, for the error.
            saved: What it holds.
            epochs: Epochs of the run.
            batches: Batches in an epoch.
            batch_size: Images in a batch.

        Raises:
            UserError: If the run cannot have been there.
        """
        state = fields_of(path, "state", saved, cls)
        limits = {
            "epoch": epochs,
            "batch": batches,
            "seen": state.batch * batch_size,
            "correct": state.seen,
        }
        for name, most in limits.items():
            least = most if name == "seen" else 0
            if not least <= getattr(state, name) <= most:
                raise UserError(
                    f"{path}: expected state.{name} of {least} to {most}, got "
                    f"{getattr(state, name)}; start the run anew"
                )
        return state
