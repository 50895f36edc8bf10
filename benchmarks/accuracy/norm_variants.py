"""Trains with variants of L1BN, some of which leave something out as published versions do.

    python -m benchmarks.accuracy.norm_variants no-mean-sign --data DATA --model resnet8 --out X

Takes the options of ``l1bn train``; `benchmarks.accuracy variants` compares the
results. The variants:

* no-mean-sign: the gradient leaves out the mean of the signs, b-bar of equation (8) of
  docs/mathematics.md, as if the mean absolute deviation did not depend on the mean;
* no-scale: normalization by the mean absolute deviation itself, without the factor sqrt(pi/2);
* eps-added: eps is added to the deviation; L1BN takes it as a floor;
* relu-first: every ReLU stands before its norm, with --norm l1 or l2, so that the norm sees skewed
  activations; a shortcut's norm has no ReLU and stays as it is;
* calibrated: `calibrate_` runs on the network of --weights before it is fine-tuned.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from l1bn import calibrate_
from l1bn.errors import UserError
from l1bn.nn import L1BatchNorm2d, L1BatchNormAct2d
from l1bn.recipes.classification.run import load_recipe_data
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet
from l1bn.recipes.files.checkpoint import CHECKPOINT, load_checkpoint
from l1bn.recipes.machine.interrupt import Interrupted
from l1bn.recipes.machine.threads import thread_count
from l1bn.recipes.models.norm import BatchNormAct2d

TAKEN_AWAY = ("no-mean-sign", "no-scale", "eps-added")
VARIANTS = (*TAKEN_AWAY, "relu-first", "calibrated")
CALIBRATION_BATCHES = 20
VARIANT = "variant.txt"
"""File of a run that names its variant: the configuration does not know it."""
DIMS = (0, 2, 3)


class VariantNorm(nn.BatchNorm2d):
    """A variant of L1BN with the layout of `L1BatchNormAct2d`, differentiated by autograd.

    The running variance is the mean of the squared scales as they are, and evaluation divides by
    its root: without the factor M/(M - 1) and eps of equation (9), less than a digit shown here.
    """

    def __init__(self, like: L1BatchNormAct2d, variant: str) -> None:
        super().__init__(like.num_features, like.eps, like.momentum)
        self.act = like.act
        self.variant = variant
        self.factor = 1.0 if variant == "no-scale" else math.sqrt(math.pi / 2)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``act(norm(x) + residual)``."""
        mean, scale = self._batch(x) if self.training else self._running()
        y = (x - _wide(mean)) * _wide(self.weight / scale) + _wide(self.bias)
        return self.act(y if residual is None else y + residual)

    def _batch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(DIMS)
        centre = mean.detach() if self.variant == "no-mean-sign" else mean
        scale = self.factor * (x - _wide(centre)).abs().mean(DIMS)
        if self.variant == "eps-added":
            scale = scale + self.eps
        else:
            scale = scale.clamp(min=math.sqrt(self.eps))
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(scale.square(), self.momentum)
        return mean, scale

    def _running(self) -> tuple[Tensor, Tensor]:
        assert self.running_mean is not None
        assert self.running_var is not None
        return self.running_mean, self.running_var.sqrt()


def _wide(v: Tensor) -> Tensor:
    return v[:, None, None]


class ReluFirst(nn.Module):
    """The ReLU before the norm: what it sees is skewed, half of it zeros. Nothing comes after."""

    def __init__(self, like: nn.BatchNorm2d) -> None:
        super().__init__()
        plain = L1BatchNorm2d if isinstance(like, L1BatchNormAct2d) else nn.BatchNorm2d
        self.norm = plain(like.num_features, like.eps, like.momentum)
        self.first = like.act

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``norm(act(x)) + residual``."""
        y = self.norm(self.first(x))
        return y if residual is None else y + residual


class VariantTrainer(Trainer):
    """A trainer whose network is changed by a variant."""

    def __init__(self, config: TrainConfig, data: ImageSet, variant: str) -> None:
        self.variant = variant
        super().__init__(config, data)

    def _build(self, model: nn.Module) -> None:
        if self.variant == "relu-first":
            replace_norms(model, ReluFirst)
        elif self.variant in TAKEN_AWAY:
            replace_norms(model, lambda layer: VariantNorm(layer, self.variant))
        super()._build(model)

    def start_from(self, weights: Path) -> None:
        """Take the weights of a checkpoint, and calibrate if that is the variant."""
        super().start_from(weights)
        if self.variant == "calibrated":
            batches = islice(self.plan(0).batches(self.train_split), CALIBRATION_BATCHES)
            calibrate_(self.model, (self.preprocess(images) for images, _ in batches))


def replace_norms(model: nn.Module, make: Callable[[nn.Module], nn.Module]) -> None:
    """Replace every norm of a recipe's network, in place."""
    for name, layer in model.named_children():
        if isinstance(layer, (L1BatchNormAct2d, BatchNormAct2d)):
            setattr(model, name, make(layer))
        else:
            replace_norms(layer, make)


def check_variant(folder: Path, variant: str | None) -> None:
    """Refuse a run of another variant; None is L1BN or BN itself.

    Raises:
        SystemExit: It says which.
    """
    path = folder / VARIANT
    found = path.read_text().strip() if path.exists() else None
    if found != variant:
        raise SystemExit(
            f"{folder} holds the variant {found}, not {variant}; choose another folder"
        )


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in VARIANTS:
        raise SystemExit(f"expected one of {', '.join(VARIANTS)}, then options of l1bn train")
    config = tyro.cli(TrainConfig, args=arguments[1:])
    config.validate()
    if config.precision == "int8":
        raise SystemExit("expected --precision fp32 or bf16: the variants are not in integers")
    with thread_count(config.threads):
        continue_or_start(config, arguments[0])


def continue_or_start(config: TrainConfig, variant: str) -> None:
    trainer = VariantTrainer(config, load_recipe_data(config), variant)
    if (config.out / CHECKPOINT).exists():
        saved = load_checkpoint(config.out / CHECKPOINT)
        if changes := config.changes(saved["config"]):
            raise SystemExit(f"{config.out} was made with {changes}; choose another folder")
        check_variant(config.out, variant)
        trainer.restore(saved)
    elif config.weights is not None:
        trainer.start_from(config.weights)
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / VARIANT).write_text(variant + "\n")
    trainer.fit()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Interrupted as stop:
        raise SystemExit(f"{stop}; the same command goes on") from None
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
