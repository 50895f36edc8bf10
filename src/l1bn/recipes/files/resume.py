"""What is in a run's folder, and whether a run may begin or go on there."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from l1bn.errors import UserError
from l1bn.recipes.files.checkpoint import CHECKPOINT, RESULT, Checkpoint, load_checkpoint
from l1bn.recipes.files.saved import check_fields


class Run(Protocol):
    """The configuration of a run: its folder, and how it differs from a saved one."""

    @property
    def out(self) -> Path:
        """Folder of the run."""

    def changes(self, other: dict[str, object], same_data: bool = False) -> str:
        """Say what differs, "" for nothing."""


def open_run(config: Run, command: str, resume: bool) -> Checkpoint | None:
    """Return the checkpoint that a run continues from, None for a new run.

    Args:
        config: The run.
        command: Its command, ``"train"`` or ``"gan"``.
        resume: Continue what is in the folder.

    Raises:
        UserError: If the folder holds another run, or nothing to resume.
    """
    checkpoint = config.out / CHECKPOINT
    if not resume:
        if checkpoint.exists() or (config.out / RESULT).exists():
            raise UserError(
                f"{config.out} already holds a run; continue it with --resume {config.out}, or "
                "choose another folder with --out"
            )
        return None
    saved = load_checkpoint(checkpoint, command)
    check_fields(checkpoint, "config", saved["config"], type(config))
    if changes := config.changes(saved["config"], same_data="data" in saved):
        raise UserError(
            f"{checkpoint} was made with {changes}; resume without changing it, or start a new run "
            "with another --out"
        )
    return saved
