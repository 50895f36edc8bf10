"""Running a recipe from its configuration: data, trainer, folder, resume."""

from __future__ import annotations

from collections.abc import Callable

from l1bn.recipes.classification.integer import IntegerTrainer
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.config import Recipe, TrainConfig
from l1bn.recipes.data import ImageSet, load_data
from l1bn.recipes.files.checkpoint import Checkpoint
from l1bn.recipes.files.lock import shared_folder
from l1bn.recipes.files.resume import open_run
from l1bn.recipes.machine.processes import joined_processes
from l1bn.recipes.machine.threads import thread_count


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
    with (
        joined_processes(config.device) as processes,
        shared_folder(config.out, processes),
        thread_count(config.threads),
    ):
        saved = processes.from_first(lambda: open_run(config, "train", resume))
        if data is None:
            data = processes.first_then_others(lambda: load_recipe_data(config))
        trainer = processes.together(lambda: _prepared(config, data, saved))
        trainer.fit(say)
    return trainer


def _prepared(config: TrainConfig, data: ImageSet, saved: Checkpoint | None) -> Trainer:
    """Return the trainer where the run begins or goes on."""
    trainer = make_trainer(config, data)
    if saved is not None:
        trainer.restore(saved)
    elif config.weights is not None:
        trainer.start_from(config.weights)
    return trainer


def make_trainer(config: TrainConfig, data: ImageSet) -> Trainer:
    """Return the trainer for the configuration's precision."""
    return (IntegerTrainer if config.precision == "int8" else Trainer)(config, data)
