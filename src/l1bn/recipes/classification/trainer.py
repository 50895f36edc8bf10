"""Training an image classifier: SGD, one seed, curves, checkpoints, resume."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, SupportsFloat, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from l1bn.errors import UserError
from l1bn.recipes.classification.parameters import parameter_groups
from l1bn.recipes.classification.schedule import cosine, one_cycle
from l1bn.recipes.classification.scores import Loss, class_accuracy, count_correct, mean_scores
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet, Split
from l1bn.recipes.data.augment import EpochPlan, Mirror, Preprocess, plan_epoch
from l1bn.recipes.files.checkpoint import (
    CHECKPOINT,
    RESULT,
    Checkpoint,
    load_weights,
    save_checkpoint,
)
from l1bn.recipes.files.curves import CurveLog
from l1bn.recipes.files.progress import Progress
from l1bn.recipes.files.saved import check_optimizer, check_tensors
from l1bn.recipes.files.writing import write_json
from l1bn.recipes.machine.device import pick_device
from l1bn.recipes.machine.interrupt import Interrupted, StopRequest, deferred_interrupt
from l1bn.recipes.machine.parallel import data_parallel, synchronise_
from l1bn.recipes.machine.processes import Processes
from l1bn.recipes.models import build_model
from l1bn.strided_conv import to_channels_last_

_Measured = TypeVar("_Measured")


class Trainer:
    """One run: a model, its optimizer and where it stands.

    Two runs with equal configuration take the same steps bit for bit on the same machine, with the
    same number of threads, and so does a run that was interrupted and resumed. The number of
    threads is the caller's to set, as ``train`` does with ``thread_count``.

    Args:
        config: What to train.
        data: The images.
        processes: Those that train together; by default those of the group, if there is one.
    """

    def __init__(
        self, config: TrainConfig, data: ImageSet, processes: Processes | None = None
    ) -> None:
        self.config = config
        self.data = data
        self.processes = Processes.current() if processes is None else processes
        _check_classes(config, data)
        self.train_split = data.train.only(config.classes, config.images, config.seed)
        self.test_split = data.test.only(config.classes)
        self.batch_size = min(config.batch_size, len(self.train_split))
        self.processes.check_batch(self.batch_size)
        self.device = pick_device(config.device)
        self.moments = data.moments()
        torch.manual_seed(config.seed)
        self._build(build_model(config.model, config.norm, data.spec(config.width)))
        self._parallel: nn.Module | None = None
        self._state = Progress()
        self.curves = self._new_curves()

    def _new_curves(self) -> CurveLog:
        return CurveLog(self.config.out, writes=self.processes.first)

    def _build(self, model: nn.Module) -> None:
        """Set up the model, its optimizer and what turns images into its inputs."""
        config = self.config
        self.preprocess = Preprocess(self.moments, self.device, config.channels_last)
        self.model = (to_channels_last_(model) if config.channels_last else model).to(self.device)
        if config.sync_norm and self.processes.count > 1:
            synchronise_(self.model, self.device)
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
            parameter_groups(self.model, config),
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            fused=True,
        )

    def start_from(self, weights: Path) -> None:
        """Take the weights of a checkpoint, of either norm.

        Raises:
            UserError: If the checkpoint holds another model.
        """
        load_weights(weights, self.model)

    def fit(self, say: Callable[[str], None] | None = None) -> None:
        """Train to the end of the last epoch.

        Args:
            say: Receives a line after each epoch.

        Raises:
            Interrupted: If the user pressed Ctrl-C; everything is saved then.
        """
        config, log = self.config, self.curves
        log.open(self._global_step(), config.tensorboard)
        try:
            with deferred_interrupt() as stop:
                while self._state.epoch < config.epochs:
                    began = time.monotonic()
                    self._run_epoch(log, stop)
                    if say is not None and self.processes.first:
                        say(self._epoch_line(time.monotonic() - began))
        finally:
            log.close()
        self._write_result()

    def _epoch_line(self, seconds: float) -> str:
        """Say how the last epoch went, and how long the others will take."""
        row, epochs = self.curves.rows("epochs")[-1], self.config.epochs
        images = self._steps_per_epoch() * self.batch_size
        left = timedelta(seconds=round(seconds * (epochs - self._state.epoch)))
        return (
            f"epoch {self._state.epoch:>{len(str(epochs))}}/{epochs}  "
            f"train loss {row['train_loss']:.3f} accuracy {row['train_accuracy']:.1%}  "
            f"test loss {row['test_loss']:.3f} accuracy {row['test_accuracy']:.1%}  "
            f"{images / max(row['seconds'], 1e-3):.0f} images/s  {left} left"
        )

    def restore(self, saved: Checkpoint) -> None:
        """Continue where a checkpoint was made.

        Raises:
            UserError: If it was made with other images than these, or does not fit; nothing is
                changed then.
        """
        path = self.config.out / CHECKPOINT
        shape = dataclasses.asdict(self.data.spec())
        if saved["shape"] != shape:
            raise UserError(
                f"{path} was made with images {saved['shape']}, but {self.config.data} has {shape}"
            )
        if "data" in saved:  # an older version did not keep it
            self.data.check_same(saved["data"], path)
        state = Progress.restored(
            path, saved["state"], self.config.epochs, self._steps_per_epoch(), self.batch_size
        )
        step = state.epoch * self._steps_per_epoch() + state.batch
        check_tensors(path, "model", saved["model"], self.model.state_dict())
        optimizer = self._checked_optimizer(path, saved["optimizer"], step)
        curves = self._new_curves()
        curves.restore(saved, step)
        if len(curves.rows("epochs")) != state.epoch:
            raise UserError(
                f"{self.config.out}: expected a curve of {state.epoch} epochs in "
                f"{'epochs.csv' if 'curves' not in saved else CHECKPOINT}, got "
                f"{len(curves.rows('epochs'))}; restore the file, or start the run anew"
            )
        self.model.load_state_dict(saved["model"])
        self._restore_optimizer(optimizer)
        self._state, self.curves = state, curves

    def _checked_optimizer(
        self, path: Path, saved: dict[str, object], step: int
    ) -> dict[str, object]:
        return check_optimizer(path, "optimizer", saved, self.optimizer, step)

    def loss(
        self, images: torch.Tensor, labels: torch.Tensor, network: nn.Module | None = None
    ) -> tuple[Any, torch.Tensor]:
        """Return the mean loss and the logits of a batch of uint8 images, for a training step.

        Args:
            images: Images.
            labels: Their classes.
            network: What to call in the place of the model: the same, watched by other processes.
        """
        with self._autocast():
            logits = (self.model if network is None else network)(self.preprocess(images))
        smoothing = self.config.label_smoothing if self.model.training else 0.0
        target = labels.to(self.device)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(wide, target, label_smoothing=smoothing), logits

    def step(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[SupportsFloat, torch.Tensor]:
        """Take one training step on this process' part of a batch.

        Returns:
            This process' share of the mean loss over the batch, and its logits.
        """
        loss, logits = self.loss(images, labels, self._network())
        share = len(labels) / self.batch_size
        self.optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel takes the mean over processes, whose parts may differ in size.
        (loss * (share * self.processes.count)).backward()
        self.optimizer.step()
        return loss.detach() * share, logits.detach()

    def _network(self) -> nn.Module:
        """Return what a training step calls: the model, and its gradients go to all processes."""
        if self.processes.count == 1:
            return self.model
        if self._parallel is None:
            self._parallel = data_parallel(self.model)
        return self._parallel

    def parameter_count(self) -> int:
        """Return the number of weights that train."""
        return sum(p.numel() for p in self.model.parameters())

    def _restore_optimizer(self, saved: dict[str, object]) -> None:
        self.optimizer.load_state_dict(saved)

    def _optimizer_state(self) -> dict[str, object]:
        return self.optimizer.state_dict()

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]

    def _train_mode(self) -> None:
        self.model.train()
        if self.config.frozen_statistics:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def plan(self, epoch: int) -> EpochPlan:
        """Return the batches of an epoch."""
        config = self.config
        return plan_epoch(
            len(self.train_split),
            config.batch_size,
            config.seed,
            epoch,
            padding=0 if config.augment == "none" else max(1, self.data.image_size // 8),
            mirror=self._mirror(),
            edges=config.crop_edges,
            processes=self.processes,
        )

    def evaluate(self, split: Split) -> tuple[float, float]:
        """Return mean loss and accuracy, in evaluation mode."""
        return self._evaluated(partial(mean_scores, split))

    def class_accuracy(self) -> list[float]:
        """Return the accuracy on the test images of each class, in evaluation mode."""
        return self._evaluated(partial(class_accuracy, self.data.test, len(self.data.classes)))

    @torch.no_grad()
    def _evaluated(self, measure: Callable[[Loss, Processes], _Measured]) -> _Measured:
        self.model.eval()
        self.processes.share_buffers(self.model)
        return measure(self.loss, self.processes)

    def _mirror(self) -> Mirror:
        if self.config.augment == "auto":
            return "random" if self.data.mirror else "none"
        ways: dict[str, Mirror] = {"crop+mirror": "random", "crop+alternate": "alternate"}
        return ways.get(self.config.augment, "none")

    def _autocast(self) -> AbstractContextManager[object]:
        enabled = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _steps_per_epoch(self) -> int:
        return max(1, len(self.train_split) // self.config.batch_size)

    def _global_step(self) -> int:
        return self._state.epoch * self._steps_per_epoch() + self._state.batch

    def _learning_rate(self, step: int) -> float:
        progress = step / (self.config.epochs * self._steps_per_epoch())
        if self.config.schedule == "cosine":
            return self.config.lr * cosine(progress)
        return self.config.lr * one_cycle(progress, self.config.warmup)

    def _run_epoch(self, log: CurveLog, stop: StopRequest) -> None:
        self._train_epoch(log, stop)
        state = self._state
        test_loss, test_accuracy = self.evaluate(self.test_split)
        if self.processes.any(stop.made):
            self._interrupt(stop)
        if not math.isfinite(test_loss):
            raise UserError(
                f"the test loss is {test_loss} after epoch {state.epoch + 1}: training diverged; "
                f"try a lower --lr than {self.config.lr}"
            )
        step = self._global_step()
        log.row(
            "epochs",
            {
                "epoch": state.epoch + 1,
                "step": step,
                "lr": self._learning_rate(step - 1),
                "train_loss": state.loss_sum / state.seen,
                "train_accuracy": state.correct / state.seen,
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "seconds": round(state.seconds, 3),
            },
        )
        self._state = Progress(epoch=state.epoch + 1)
        self._save()

    def _train_epoch(self, log: CurveLog, stop: StopRequest) -> None:
        state, config = self._state, self.config
        plan = self.plan(state.epoch)
        self._train_mode()
        title = f"{config.norm} seed {config.seed} epoch {state.epoch + 1}/{config.epochs}"
        with tqdm(
            total=len(plan),
            initial=state.batch,
            desc=title,
            leave=False,
            disable=None if config.progress and self.processes.first else True,
        ) as bar:
            for images, labels in plan.batches(self.train_split, state.batch):
                began = time.perf_counter()
                step = self._global_step()
                rate = self._learning_rate(step)
                self._set_rate(rate)
                found, logits = self.step(images, labels)
                correct = count_correct(logits, labels)
                loss, correct_in_all, stops = self.processes.sum(float(found), correct, stop.made)
                if not math.isfinite(loss):
                    raise UserError(
                        f"the loss is {loss} at epoch {state.epoch + 1}, step {state.batch + 1}: "
                        f"training diverged; try a lower --lr than {config.lr}"
                    )
                state.batch += 1
                state.loss_sum += loss * self.batch_size
                state.correct += int(correct_in_all)
                state.seen += self.batch_size
                state.seconds += time.perf_counter() - began
                if (step + 1) % config.log_every == 0:
                    log.row("steps", {"step": step + 1, "lr": rate, "loss": loss})
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                if stops:
                    self._interrupt(stop)

    def _interrupt(self, stop: StopRequest) -> None:
        self._save()
        state = self._state
        where = f"epoch {state.epoch + 1}, step {state.batch} of {self._steps_per_epoch()}"
        raise Interrupted(self.config.out / CHECKPOINT, where, stop.signum)

    def _save(self) -> None:
        if not self.processes.first:
            return
        save_checkpoint(
            self.config.out / CHECKPOINT,
            {
                "config": self.config.saved(),
                "shape": dataclasses.asdict(self.data.spec()),
                "data": self.data.fingerprint,
                "curves": self.curves.saved(),
                "moments": [v.tolist() for v in self.moments],
                "model": self.model.state_dict(),
                "optimizer": self._optimizer_state(),
                "state": dataclasses.asdict(self._state),
            },
        )
        self.curves.write()

    def _write_result(self) -> None:
        class_accuracy = self.class_accuracy()
        if not self.processes.first:
            return
        rows = self.curves.rows("epochs")
        seconds = sum(r["seconds"] for r in rows)
        images = len(rows) * self._steps_per_epoch() * self.batch_size
        result = {
            "config": self.config.saved(),
            "data": self.data.fingerprint,
            "parameters": self.parameter_count(),
            "test_accuracy": rows[-1]["test_accuracy"],
            "class_accuracy": class_accuracy,
            "test_loss": rows[-1]["test_loss"],
            "train_loss": rows[-1]["train_loss"],
            "seconds": round(seconds, 3),
            "images_per_second": round(images / max(seconds, 1e-9), 1),
            "threads": torch.get_num_threads(),
            "processes": self.processes.count,
        }
        write_json(self.config.out / RESULT, result, indent=2)


def _check_classes(config: TrainConfig, data: ImageSet) -> None:
    unknown = [c for c in config.classes or () if not 0 <= c < len(data.classes)]
    if unknown:
        raise UserError(
            f"expected --classes of 0 to {len(data.classes) - 1}, got {unknown[0]}: {data.name} "
            f"has {len(data.classes)} classes"
        )
