"""Trains with L1BN from which something was taken away, as published versions do.

    python benchmarks/norm_variants.py no-mean-sign --data ../data/cifar10 --model resnet8 --out X

Takes the options of ``l1bn train``; `accuracy.py variants` compares the results. The variants:

* no-mean-sign: the gradient leaves out the mean of the signs, b-bar of equation (8) of
  docs/maths.md, as if the mean absolute deviation did not depend on the mean;
* no-scale: normalization by the mean absolute deviation itself, without the factor sqrt(pi/2);
* eps-added: eps is added to the deviation; L1BN takes it as a floor.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from l1bn.nn import L1BatchNormAct2d
from l1bn.recipes.checkpoint import load_checkpoint
from l1bn.recipes.classification import CHECKPOINT, Trainer, load_recipe_data
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet

VARIANTS = ("no-mean-sign", "no-scale", "eps-added")
DIMS = (0, 2, 3)


class VariantNorm(nn.BatchNorm2d):
    """A variant of L1BN with the layout of `L1BatchNormAct2d`, differentiated by autograd."""

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
        return self.running_mean, self.running_var.sqrt()


def _wide(v: Tensor) -> Tensor:
    return v[:, None, None]


class VariantTrainer(Trainer):
    """A trainer whose network has one of the variants in place of every L1BN."""

    def __init__(self, config: TrainConfig, data: ImageSet, variant: str) -> None:
        self.variant = variant
        super().__init__(config, data)

    def _build(self, model: nn.Module) -> None:
        replace_norms(model, self.variant)
        super()._build(model)


def replace_norms(model: nn.Module, variant: str) -> None:
    """Replace every L1BN of a network, in place."""
    for name, layer in model.named_children():
        if isinstance(layer, L1BatchNormAct2d):
            setattr(model, name, VariantNorm(layer, variant))
        else:
            replace_norms(layer, variant)


def main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in VARIANTS:
        raise SystemExit(f"expected one of {', '.join(VARIANTS)}, then options of l1bn train")
    config = tyro.cli(TrainConfig, args=arguments[1:])
    trainer = VariantTrainer(config, load_recipe_data(config), arguments[0])
    saved: dict[str, Any] | None = None
    if (config.out / CHECKPOINT).exists():
        saved = load_checkpoint(config.out / CHECKPOINT)
        trainer.restore(saved)
    trainer.fit()


if __name__ == "__main__":
    main(sys.argv[1:])
