"""Running a recipe from its configuration: data, trainer, folder, resume."""

from __future__ import annotations

from collections.abc import Callable

from l1bn.errors import UserError
from l1bn.recipes.checkpoint import CHECKPOINT, RESULT, load_checkpoint
from l1bn.recipes.classification import Trainer
from l1bn.recipes.config import Recipe, TrainConfig
from l1bn.recipes.data import ImageSet, load_data
from l1bn.recipes.integer import IntegerTrainer
from l1bn.recipes.lock import own_folder
from l1bn.recipes.saved import check_fields
from l1bn.recipes.threads import thread_count


def load_recipe_data(recipe: Recipe) -> ImageSet:
    """Load the images that a recipe names."""
    return load_data(
        recipe.data,
        image_column=recipe.image_column,
        label_column=recipe.label_column,
        image_size=recipe.image_size,
        progress=recipe.progress,
    )


def train(
    config: TrainConfig,
    data: ImageSet | None = None,
    resume: bool = False,
    say: Callable[[str], None] | None = None,
) -> Trainer:
    """Train one model and leave ``result.json``, CSV curves and a checkpoint in ``config.out``.

    Args:
        config: What to train.
        data: The images, if they are loaded already.
        resume: Continue from the checkpoint in ``config.out``.
        say: Receives a line after each epoch.

    Returns:
        The finished trainer.

    Raises:
        UserError: If the folder holds another run, or nothing to resume, or is in use.
        Interrupted: If the user pressed Ctrl-C; the run can be resumed.
    """
    config.validate()
    checkpoint = config.out / CHECKPOINT
    if resume and not checkpoint.is_file():
        raise UserError(f"no checkpoint at {checkpoint}")
    with own_folder(config.out), thread_count(config.threads):
        saved = load_checkpoint(checkpoint) if resume else None
        if saved is None and (checkpoint.exists() or (config.out / RESULT).exists()):
            raise UserError(
                f"{config.out} already holds a run; continue it with --resume {config.out}, or "
                "choose another folder with --out"
            )
        if saved is not None:
            check_fields(checkpoint, "config", saved["config"], TrainConfig)
            if changes := config.changes(saved["config"], same_data="data" in saved):
                raise UserError(
                    f"{checkpoint} was made with {changes}; resume without changing it, or start a "
                    "new run with another --out"
                )
        trainer = make_trainer(config, load_recipe_data(config) if data is None else data)
        if saved is not None:
            trainer.restore(saved)
        elif config.weights is not None:
            trainer.start_from(config.weights)
        trainer.fit(say)
    return trainer


def make_trainer(config: TrainConfig, data: ImageSet) -> Trainer:
    """Return the trainer for the configuration's precision."""
    return (IntegerTrainer if config.precision == "int8" else Trainer)(config, data)
