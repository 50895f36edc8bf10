"""A GAN's run: curves, grids of images, checkpoints, resume."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from tqdm import tqdm

from l1bn.errors import UserError
from l1bn.recipes.data import ImageSet, load_data
from l1bn.recipes.files.checkpoint import CHECKPOINT, RESULT, Checkpoint, save_checkpoint
from l1bn.recipes.files.curves import CurveLog
from l1bn.recipes.files.lock import shared_folder
from l1bn.recipes.files.resume import open_run
from l1bn.recipes.files.saved import check_optimizer, check_tensors, fields_of
from l1bn.recipes.files.writing import write_json
from l1bn.recipes.gan.adversaries import LOSS_COLUMNS, Adversaries
from l1bn.recipes.gan.config import GanConfig, GanRecipe
from l1bn.recipes.gan.distance import DISTANCE_NAME, ReferenceDistance, distance_to_test
from l1bn.recipes.gan.images import fit_size, image_grid, save_png
from l1bn.recipes.gan.noise import stream
from l1bn.recipes.machine.interrupt import Interrupted, StopRequest, deferred_interrupt
from l1bn.recipes.machine.processes import Processes, joined_processes
from l1bn.recipes.machine.threads import thread_count

DISTANCE = "classifier_frechet"
"""Column of the Fréchet distance on the classifier's features, which is not Inception-FID."""
SAMPLES = "samples"
"""Name of the table with a row for each image grid: means since the row before."""

_GRID_IMAGES = 64
_CHUNK = 500


@dataclass
class _State:
    """How far a run is.

    Attributes:
        step: Steps of the generator that are done.
        sums: Sums of the losses of the steps since the last grid.
        count: Number of these steps.
        seconds: Training time of these steps [s].
    """

    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * len(LOSS_COLUMNS))
    count: int = 0
    seconds: float = 0.0


def load_gan_data(recipe: GanRecipe) -> ImageSet:
    """Load the images that a recipe names, at a size that the networks can make."""
    data = load_data(
        recipe.data,
        image_column=recipe.image_column,
        label_column=recipe.label_column,
        image_size=recipe.image_size,
        progress=recipe.progress,
    )
    return fit_size(data)


def train_gan(
    config: GanConfig,
    data: ImageSet | None = None,
    resume: bool = False,
    say: Callable[[str], None] | None = None,
) -> GanTrainer:
    """Train one GAN; leave ``result.json``, CSV curves, grids and a checkpoint in ``config.out``.

    Args:
        config: What to train.
        data: The images, if they are loaded already.
        resume: Continue from the checkpoint in ``config.out``, to more steps if asked.
        say: Receives a line with each grid of images.

    Returns:
        The finished trainer.

    Raises:
        UserError: If the folder holds another run, or nothing to resume.
        Interrupted: If the user pressed Ctrl-C; the run can be resumed.
    """
    config.validate()
    config = config.filled()
    with (
        joined_processes(config.device) as processes,
        shared_folder(config.out, processes),
        thread_count(config.threads),
    ):
        saved = processes.from_first(lambda: open_run(config, "gan", resume))
        if data is None:
            data = processes.first_then_others(lambda: load_gan_data(config))
        trainer = processes.together(lambda: _prepared(config, fit_size(data), saved))
        trainer.fit(say)
    return trainer


def _prepared(config: GanConfig, data: ImageSet, saved: Checkpoint | None) -> GanTrainer:
    """Return the trainer where the run begins or goes on."""
    trainer = GanTrainer(config, data)
    if saved is not None:
        trainer.restore(saved)
    return trainer


def step_count(config: GanConfig, images: int) -> int:
    """Return the steps of the generator in a run on so many training images."""
    if config.steps is not None:
        return config.steps
    settings = config.settings()
    return math.ceil(config.epochs * (images // settings.batch_size) / settings.n_critic)


class GanTrainer:
    """One run: two adversaries, how far they are, and the files that say so.

    Two runs with equal configuration take the same steps bit for bit on the same machine, with the
    same number of threads, and so does a run that was interrupted and resumed. The number of
    threads is the caller's to set, as ``train_gan`` does with ``thread_count``.

    Args:
        config: What to train.
        data: The images, of a size that the networks can make.
    """

    def __init__(self, config: GanConfig, data: ImageSet) -> None:
        config = config.filled()
        self.config = config
        self.data = data
        self.processes = Processes.current()
        self.adversaries = Adversaries(config, data)
        self._distance: ReferenceDistance | None = None
        self._state = _State()
        self.curves = self._new_curves()

    def _new_curves(self) -> CurveLog:
        distance = () if self.config.classifier is None else (DISTANCE,)
        tables = {
            SAMPLES: ("step", *LOSS_COLUMNS, "seconds", *distance),
            "steps": ("step", *LOSS_COLUMNS),
        }
        return CurveLog(self.config.out, tables, writes=self.processes.first)

    @property
    def total_steps(self) -> int:
        """Steps of the generator in the whole run."""
        return step_count(self.config, len(self.data.train))

    def fit(self, say: Callable[[str], None] | None = None) -> None:
        """Train to the last step.

        Args:
            say: Receives a line with each grid of images.

        Raises:
            Interrupted: If the user pressed Ctrl-C; everything is saved then.
        """
        config = self.config
        self.processes.from_first(self._begin)
        log = self.curves
        log.open(self._state.step, config.tensorboard)
        try:
            with deferred_interrupt() as stop:
                self._run(log, stop, say)
        finally:
            log.close()
        self._write_result()

    def _begin(self) -> None:
        """Prepare what only the first process does: the distance, and the folder's files."""
        config = self.config
        if config.classifier is not None:
            self._distance = distance_to_test(
                config.classifier,
                self.data,
                config.distance_images,
                self.adversaries.device,
                config.channels_last,
            )
        self._save_real_images()
        if self._state.step < self.total_steps:  # a finished run goes on: what it said is no result
            (config.out / RESULT).unlink(missing_ok=True)

    def restore(self, saved: Checkpoint) -> None:
        """Continue where a checkpoint was made.

        Raises:
            UserError: If its images were others, if it has more steps than this run, or if it does
                not fit; nothing is changed then.
        """
        path = self.config.out / CHECKPOINT
        shape = self._shape()
        if saved["shape"] != shape:
            raise UserError(
                f"{path} was made with images of {saved['shape']}, but {self.config.data} has "
                f"{shape}"
            )
        if "data" in saved:  # an older version did not keep it
            self.data.check_same(saved["data"], path)
        state = self._checked_state(path, saved["state"])
        tensors = {"generator": saved["generator"], "critic": saved["critic"]}
        for name, network in self.adversaries.networks.items():
            check_tensors(path, name, tensors[name], network.state_dict())
        updates = {"generator": state.step, "critic": state.step}
        optimizers = {
            name: check_optimizer(
                path, f"optimizers.{name}", saved["optimizers"].get(name, {}), own, updates[name]
            )
            for name, own in self.adversaries.optimizers.items()
        }
        curves = self._new_curves()
        curves.restore(saved, state.step)
        for name, network in self.adversaries.networks.items():
            network.load_state_dict(tensors[name])
            self.adversaries.optimizers[name].load_state_dict(optimizers[name])
        self._state, self.curves = state, curves
        if state.step < self.total_steps:
            self._take_back_last_grid()

    def _checked_state(self, path: Path, saved: Mapping[str, object]) -> _State:
        state = fields_of(path, "state", saved, _State)
        if min(state.step, state.count) < 0 or state.count > state.step or state.seconds < 0:
            raise UserError(f"{path}: expected state.step to be a step, got {state.step}")
        if len(state.sums) != len(LOSS_COLUMNS):
            raise UserError(f"{path}: expected {len(LOSS_COLUMNS)} sums, got {len(state.sums)}")
        if state.step > self.total_steps:
            raise UserError(
                f"{path} has {state.step} steps already; expected --steps to be at least that, got "
                f"{self.total_steps}"
            )
        return state

    def _take_back_last_grid(self) -> None:
        """Remove the grid that a shorter run made only because it ended there."""
        step = self._state.step
        if not any(r["step"] == step for r in self.curves.rows(SAMPLES)) or self._is_regular(step):
            return
        if self._state.count == 0:
            raise UserError(
                f"{self.config.out / CHECKPOINT} is of an older version, which kept no means beyond"
                f" step {step}: it can be taken further only from a multiple of --sample-every"
            )
        self.curves.drop(SAMPLES, step)
        if self.processes.first:
            self._grid_path(step).unlink(missing_ok=True)

    def summary(self) -> str:
        """Say how a finished run ended."""
        row = self.curves.rows(SAMPLES)[-1]
        if DISTANCE in row:
            return f"{DISTANCE_NAME}: {row[DISTANCE]:.3f}"
        losses = " and ".join(f"{row[n]:.3f}" for n in LOSS_COLUMNS[:2])
        return f"losses of critic and generator {losses}"

    def _run(
        self, log: CurveLog, stop: StopRequest, say: Callable[[str], None] | None = None
    ) -> None:
        config, total = self.config, self.total_steps
        with tqdm(
            total=total,
            initial=self._state.step,
            desc=f"{config.model} {config.norm} seed {config.seed}",
            leave=False,
            disable=None if config.progress and self.processes.first else True,
        ) as bar:
            while True:
                if self._grid_is_due():
                    count = self._state.count
                    self._write_samples(log)
                    if say is not None and self.processes.first:
                        say(self._progress(count))
                if self._state.step == total:
                    return
                self._stop_if_asked(stop)
                values = self._timed_step()
                if self._state.step % config.log_every == 0:
                    log.row("steps", {"step": self._state.step, **_named(values)})
                bar.update()
                bar.set_postfix(critic=f"{values[0]:.3f}", generator=f"{values[1]:.3f}")
                self._stop_if_asked(stop)

    def _progress(self, count: int) -> str:
        """Say how the last steps went, so many, and how long the others will take."""
        row, total = self.curves.rows(SAMPLES)[-1], self.total_steps
        seconds = max(row["seconds"], 1e-3)
        images = count * self.adversaries.settings.n_critic * self.adversaries.settings.batch_size
        left = timedelta(seconds=round(seconds / count * (total - row["step"])))
        distance = f"distance {row[DISTANCE]:.2f}  " if DISTANCE in row else ""
        return (
            f"step {row['step']:>{len(str(total))}}/{total}  "
            f"critic loss {row['critic_loss']:.3f}  generator loss {row['generator_loss']:.3f}  "
            f"score of real {row['real_score']:.2f}, of generated {row['fake_score']:.2f}  "
            f"{distance}{images / seconds:.0f} images/s  {left} left"
        )

    def _timed_step(self) -> list[float]:
        state = self._state
        began = time.perf_counter()
        values = self.adversaries.step(state.step)
        state.seconds += time.perf_counter() - began
        state.step += 1
        if not all(map(math.isfinite, values)):
            raise UserError(
                f"the losses are {values[0]} and {values[1]} at step {state.step}: training "
                f"diverged; try a lower --lr than {self.config.lr}"
            )
        state.count += 1
        state.sums = [a + b for a, b in zip(state.sums, values, strict=True)]
        return values

    def _grid_is_due(self) -> bool:
        step = self._state.step
        due = self._is_regular(step) or step == self.total_steps
        written = any(row["step"] == step for row in self.curves.rows(SAMPLES)[-1:])
        return due and self._state.count > 0 and not written

    def _is_regular(self, step: int) -> bool:
        """Whether a grid is due at a step, however long the run."""
        epoch = max(1, self.adversaries.batches.per_epoch // self.adversaries.settings.n_critic)
        return step % (self.config.sample_every or epoch) == 0

    def _grid_path(self, step: int) -> Path:
        return self.config.out / "images" / f"step-{step:06d}.png"

    def _write_samples(self, log: CurveLog) -> None:
        """Write a grid and a row of the curves, and save."""
        state = self._state
        row = {"step": state.step, **_named([s / state.count for s in state.sums])}
        row["seconds"] = round(state.seconds, 3)
        if (distance := self.processes.from_first(self._look)) is not None:
            row[DISTANCE] = distance
        log.row(SAMPLES, row)
        if self._is_regular(state.step):  # a longer run would go on with the means of the others
            self._state = _State(step=state.step)
        self._save()

    def _look(self) -> float | None:
        """Write the grid of images; return the distance, if it is to be measured."""
        noise = self.adversaries.noise(_GRID_IMAGES, stream(self.config.seed, "grid"))
        grid = image_grid(self.adversaries.sample(noise))
        save_png(grid, self._grid_path(self._state.step))
        if self._distance is None:
            return None
        return self._distance.measure(self._generated(self._distance.images))

    def _generated(self, count: int) -> Iterator[torch.Tensor]:
        """Yield as many images from noise that is the same each time, in chunks."""
        for first in range(0, count, _CHUNK):
            random = stream(self.config.seed, "distance", first)
            yield self.adversaries.sample(
                self.adversaries.noise(min(_CHUNK, count - first), random)
            )

    def _save_real_images(self) -> None:
        images = self.data.train.only(images=_GRID_IMAGES, seed=self.config.seed).images
        save_png(image_grid(images), self.config.out / "images" / "real.png")

    def _shape(self) -> dict[str, int]:
        channels, size = self.data.train.images.shape[1:3]
        return {"channels": channels, "image_size": size}

    def _stop_if_asked(self, stop: StopRequest) -> None:
        """Save and stop where any process was asked to; all do it together."""
        if self.processes.any(stop.made):
            self._interrupt(stop)

    def _interrupt(self, stop: StopRequest) -> None:
        self._save()
        where = f"step {self._state.step} of {self.total_steps}"
        raise Interrupted(self.config.out / CHECKPOINT, where, stop.signum)

    def _save(self) -> None:
        if not self.processes.first:
            return
        optimizers = {name: o.state_dict() for name, o in self.adversaries.optimizers.items()}
        content = {
            "config": self.config.saved(),
            "shape": self._shape(),
            "data": self.data.fingerprint,
            "curves": self.curves.saved(),
            "generator": self.adversaries.generator.state_dict(),
            "critic": self.adversaries.critic.state_dict(),
            "optimizers": optimizers,
            "state": dataclasses.asdict(self._state),
        }
        save_checkpoint(self.config.out / CHECKPOINT, content, "gan")
        self.curves.write()

    def _write_result(self) -> None:
        if not self.processes.first:
            return
        rows = self.curves.rows(SAMPLES)
        result: dict[str, object] = {
            "config": self.config.saved(),
            "data": self.data.fingerprint,
            "parameters": {
                name: sum(p.numel() for p in network.parameters())
                for name, network in self.adversaries.networks.items()
            },
            "steps": self.total_steps,
            **{name: rows[-1][name] for name in LOSS_COLUMNS},
            "seconds": round(sum(r["seconds"] for r in rows), 3),
            "threads": torch.get_num_threads(),
            "processes": self.processes.count,
        }
        if self._distance is not None:
            result["distance"] = {**self._distance.record, "value": rows[-1][DISTANCE]}
        write_json(self.config.out / RESULT, result, indent=2)


def _named(values: list[float]) -> dict[str, float]:
    return dict(zip(LOSS_COLUMNS, values, strict=True))
