"""Training an image classifier in integers: ``--precision int8``."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from l1bn import quantized
from l1bn.errors import UserError
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet
from l1bn.recipes.files.checkpoint import load_checkpoint, load_weights
from l1bn.recipes.files.saved import check_fields
from l1bn.recipes.models import build_model

_LEVELS = 256
_SATURATED = 1.05  # up to this factor above the range, the brightest pixels saturate


class IntegerPreprocess:
    """Turns uint8 images into int8 by one table per channel: (pixel − mean) / std in steps of 2**e.

    Args:
        data: Gives mean and standard deviation of the training images.
        device: Where the network is.

    Attributes:
        exponent: Exponent of the integers.
        table: What becomes of each level, ``(C, 256)`` of int8.
    """

    def __init__(self, data: ImageSet, device: torch.device) -> None:
        mean, std = (m.double().view(-1, 1) for m in data.moments())
        levels = (torch.arange(_LEVELS, dtype=torch.float64) - mean) / std
        low, high = int(data.train.images.min()), int(data.train.images.max())
        peak = float(levels[:, low : high + 1].abs().max()) / _SATURATED
        self.exponent = math.ceil(math.log2(peak / 127))
        codes = torch.round(torch.ldexp(levels, torch.tensor(-self.exponent))).clamp(-127, 127)
        self.table = codes.to(torch.int8).to(device)
        self._device = device

    def __call__(self, images: Tensor) -> quantized.QTensor:
        """Return (N, C, H, W) of int8, in channels-last memory."""
        pixels = images.to(self._device).permute(0, 2, 3, 1).int()
        planes = [self.table[c][pixels[..., c]] for c in range(len(self.table))]
        values = torch.stack(planes, dim=-1).permute(0, 3, 1, 2)
        return quantized.QTensor(values, self.exponent)


def integer_config(config: TrainConfig) -> quantized.Config:
    """Return the formats and rounding that the options ask for.

    Raises:
        ValueError: If one is out of range.
    """
    return quantized.Config(
        norm=config.norm if config.int8_norm == "same" else config.int8_norm,
        sigma=config.int8_sigma,
        master_bits=config.int8_master_bits,
        error_bits=config.int8_error_bits,
        stochastic=config.int8_rounding == "stochastic",
        per_channel=config.int8_exponents == "channel",
        statistics=config.int8_statistics,
        momentum=config.int8_statistics_momentum,
        residual_fraction=config.int8_residual_fraction,
        seed=config.seed,
    )


class IntegerTrainer(Trainer):
    """One run whose every training step is made of integers.

    The float model gives structure, first weights and, with ``--weights``, a trained backbone.
    """

    model: quantized.IntegerNetwork
    optimizer: quantized.SGD

    def _build(self, model: nn.Module) -> None:
        config = self.config
        if self.processes.count > 1:
            raise UserError(
                f"--precision int8 trains in one process, got {self.processes.count}: start it "
                "without torchrun"
            )
        if config.decay_norm:
            raise UserError("--precision int8 has no --decay-norm: leave it out")
        shape = (min(config.batch_size, len(self.train_split)), *self.data.train.images.shape[1:])
        try:
            self.model = quantized.prepare(model, integer_config(config)).to(self.device)
            self.model.check(torch.Size(shape))
            self.model.set_rates(config.backbone_rate, 1.0)  # the optimizer checks them
            self.optimizer = quantized.SGD(
                self.model,
                lr=config.lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                nesterov=config.nesterov,
            )
        except ValueError as error:
            raise UserError(f"--precision int8: {error}") from error
        self.integers = IntegerPreprocess(self.data, self.device)

    def start_from(self, weights: Path) -> None:
        """Take the weights of a checkpoint, of float or of integer training."""
        config = self.config
        content = load_checkpoint(weights)
        check_fields(weights, "config", content["config"], TrainConfig)
        if content["config"].get("precision") == "int8":
            try:
                load_weights(weights, self.model)
            except ValueError as error:
                raise UserError(f"--weights {weights}: {error}") from error
            self.model.start_anew()
            return
        model = build_model(config.model, config.norm, self.data.spec(config.width))
        load_weights(weights, model)
        self._build(model)

    def loss(
        self,
        images: Tensor,
        labels: Tensor,
        network: nn.Module | None = None,  # of one process there is no other
    ) -> tuple[float, Tensor]:
        """Return the mean loss and the logits of a batch of uint8 images."""
        found, logits = self._forward(images, labels)
        return found.value, logits

    def _forward(self, images: Tensor, labels: Tensor) -> tuple[quantized.Loss, Tensor]:
        logits = self.model(self.integers(images))
        smoothing = self.config.label_smoothing if self.model.training else 0.0
        found = quantized.cross_entropy(self.model, logits, labels.to(self.device), smoothing)
        return found, logits.values

    def step(self, images: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Take one training step; return the mean loss and the logits."""
        found, logits = self._forward(images, labels)
        self.model.backward(found.error)
        self.optimizer.step()
        return found.value, logits

    def parameter_count(self) -> int:
        """Return the number of weights that train."""
        return sum(p.weight.numel() for p in self.model.integer_parameters())

    def _set_rate(self, rate: float) -> None:
        self.optimizer.lr = rate

    def _train_mode(self) -> None:
        self.model.train()
        if self.config.frozen_statistics:
            self.model.freeze_statistics()

    def _optimizer_state(self) -> dict[str, object]:
        return {}  # the momentum lies in the network's buffers

    def _checked_optimizer(
        self, path: Path, saved: dict[str, object], step: int
    ) -> dict[str, object]:
        return {}

    def _restore_optimizer(self, saved: dict[str, object]) -> None:
        del saved
