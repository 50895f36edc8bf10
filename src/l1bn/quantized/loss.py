"""Soft-max cross-entropy: its gradient in integers, and its value to look at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from l1bn.fixed_point.loss import (
    LOG2_E,
    LOG2_E_BITS,
    PROBABILITY_BITS,
    TABLE,
    TABLE_BITS,
    inverse_count,
)
from l1bn.fixed_point.scaling import peak_shift
from l1bn.quantized.network import IntegerNetwork
from l1bn.quantized.tensor import QTensor

__all__ = ["Loss", "cross_entropy"]

_MEAN_BITS = 16
_MAX_SHIFT = 62


@dataclass(frozen=True)
class Loss:
    """A batch's loss.

    Attributes:
        error: Gradient of the mean in the logits, 8 bits.
        value: Mean cross-entropy [nats], computed from the integer probabilities' product: a number
            to print, not part of training.
    """

    error: QTensor
    value: float


def cross_entropy(
    network: IntegerNetwork, logits: QTensor, labels: Tensor, smoothing: float = 0.0
) -> Loss:
    """Return the loss of a batch and its gradient, every tensor in integers.

    Args:
        network: The network the logits came from; it numbers the random bits of the rounding.
        logits: int32.
        labels: Class of each row, int64.
        smoothing: Share of each label spread over all classes.

    Shape:
        - logits: (N, classes)
        - labels: (N,)

    Raises:
        ValueError: If the logits are no (N, classes) or a label is none of the classes.
    """
    values = logits.values
    _check(values, labels)
    probability = _softmax(values, logits.exponent)
    count, classes = values.shape
    spread = round(smoothing * (1 << PROBABILITY_BITS))
    target = torch.full_like(probability, spread // classes)
    rows = torch.arange(count, device=values.device)
    target[rows, labels] += (1 << PROBABILITY_BITS) - spread
    wide = ((probability - target) * inverse_count(count)).int()
    bits = network.config.error_bits
    shift = peak_shift(int(wide.abs().max()), bits)
    kernels = network.clock.kernels(values)
    error = kernels.rescale(wide, shift, bits, network.clock.noise(0, 0))
    exponent = shift - PROBABILITY_BITS - _MEAN_BITS
    return Loss(QTensor(error, exponent), _mean_nats(probability[rows, labels]))


def _softmax(logits: Tensor, exponent: int) -> Tensor:
    """See `l1bn.fixed_point.loss.softmax`."""
    wide = logits.long()
    below = (wide.amax(1, keepdim=True) - wide) * LOG2_E
    shift = LOG2_E_BITS - TABLE_BITS - exponent
    below = below >> min(shift, _MAX_SHIFT) if shift >= 0 else below << -shift
    table = torch.from_numpy(TABLE).to(logits.device)
    power = table[below & ((1 << TABLE_BITS) - 1)] >> (below >> TABLE_BITS).clamp(max=_MAX_SHIFT)
    total = power.sum(1, keepdim=True)
    return ((power << PROBABILITY_BITS) + total // 2) // total


def _mean_nats(probability: Tensor) -> float:
    codes = probability.clamp(min=1).tolist()
    return PROBABILITY_BITS * math.log(2) - sum(map(math.log, codes)) / len(codes)


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits (N, classes) and labels (N,), got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]):
        raise ValueError(
            f"expected labels 0 to {logits.shape[1] - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}; build the model with as many classes as the data has"
        )
