"""What a training step costs with either norm, and how near to Gaussian the channels are."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from l1bn.model.kept import kept_bytes
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.names import NormName

_WARMUP = 3
_RATIO_IMAGES = 512


def _batches(trainer: Trainer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield training batches without end."""
    epoch = 0
    while True:
        yield from trainer.plan(epoch).batches(trainer.data.train)
        epoch += 1


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_seconds(trainers: Mapping[NormName, Trainer], rounds: int) -> dict[NormName, list[float]]:
    """Time whole training steps (forward, backward, update), the variants taking turns.

    Every round times one step of each variant on the same batch, and the next round runs them in
    the opposite order, so that whatever else the machine does falls on all alike.

    Args:
        trainers: One trainer per variant; they are trained on by this.
        rounds: Timed rounds, after three that are not counted.

    Returns:
        Seconds of each round, per variant [s].
    """
    times: dict[NormName, list[float]] = {name: [] for name in trainers}
    names = list(trainers)
    batches = _batches(trainers[names[0]])
    for number in range(_WARMUP + rounds):
        images, labels = next(batches)
        for name in names if number % 2 else reversed(names):
            trainer = trainers[name]
            trainer.model.train()
            _wait(trainer.device)
            began = time.perf_counter()
            trainer.step(images, labels)
            _wait(trainer.device)
            if number >= _WARMUP:
                times[name].append(time.perf_counter() - began)
    return times


def saved_bytes(trainer: Trainer) -> int:
    """Return the bytes that the forward pass of one training batch keeps for backward.

    Each storage counts once, however many operations keep it, and parameters do not count: they
    are in memory anyway.
    """
    images, labels = next(_batches(trainer))
    model = copy.deepcopy(trainer.model).train()
    own, trainer.model = trainer.model, model
    try:
        return kept_bytes(lambda: trainer.loss(images, labels), model.parameters())
    finally:
        trainer.model = own


@torch.no_grad()
def deviation_ratios(trainer: Trainer) -> dict[str, list[float]]:
    """Return standard deviation / mean absolute deviation of the inputs of every norm, per channel.

    For Gaussian data it is sqrt(pi / 2) = 1.2533, the factor that L1BN assumes (Wu et al.,
    arXiv:1802.09769). Measured in training mode on one batch of up to 512 training images, on a
    copy of the model; constant channels are left out.

    Returns:
        The ratios by the name of the layer, from input to output.
    """
    order = torch.randperm(len(trainer.data.train), generator=torch.Generator().manual_seed(0))
    images = trainer.data.train.images[order[:_RATIO_IMAGES]]
    found = channel_ratios(trainer.model, trainer.preprocess(images))
    return {name: [v for v in ratios if not math.isnan(v)] for name, ratios in found.items()}


@torch.no_grad()
def channel_ratios(model: nn.Module, inputs: torch.Tensor) -> dict[str, list[float]]:
    """Return the ratio of every channel, as ``deviation_ratios``; NaN of a constant one.

    Args:
        model: It is copied, and measured in training mode.
        inputs: One batch.
    """
    ratios: dict[str, list[float]] = {}
    model = copy.deepcopy(model).train()
    for name, layer in model.named_modules():
        if _is_norm(layer):
            layer.register_forward_pre_hook(_recorder(ratios, name))
    model(inputs)
    return ratios


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _recorder(ratios: dict[str, list[float]], name: str):  # type: ignore[no-untyped-def]
    def record(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0].double().transpose(0, 1).flatten(1)
        d = x - x.mean(1, keepdim=True)
        spread, size = d.abs().mean(1), x.abs().amax(1)
        live = spread > 1e-9 * size
        values = torch.where(live, d.square().mean(1).sqrt() / spread, torch.nan)
        ratios[name] = [round(v, 5) for v in values.tolist()]

    return record
