"""Losses: the gradient in integers, and the value to look at."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from l1bn.fixed_point.addition import MAX_GAP
from l1bn.fixed_point.loss import (
    DIFFERENCE_BITS,
    LOG2_E,
    LOG2_E_BITS,
    MAX_SHIFT,
    MEAN_BITS,
    ONE_BITS,
    PROBABILITY_BITS,
    TABLE,
    TABLE_BITS,
    inverse_count,
    reciprocal_of,
)
from l1bn.fixed_point.scaling import peak_shift
from l1bn.quantized.kernels.interface import channels_last
from l1bn.quantized.network import IntegerNetwork
from l1bn.quantized.parameter import in_steps
from l1bn.quantized.tensor import QTensor


@dataclass(frozen=True)
class Loss:
    """A batch's loss.

    Attributes:
        error: Gradient of the mean in the output, 8 bits.
        value: Mean cross-entropy [nats] with the smoothing that was asked for, from the integers of
            the soft-max, or mean squared error: a number to print, not part of training.
    """

    error: QTensor
    value: float


def cross_entropy(
    network: IntegerNetwork, logits: QTensor, labels: Tensor, smoothing: float = 0.0
) -> Loss:
    """Return the loss of a batch and its gradient, every tensor in integers.

    Args:
        network: The network the logits came from; it numbers the random bits of the rounding.
        logits: int32, what the network returned.
        labels: Class of each row, int64.
        smoothing: Share of each label spread over all classes, 0 to 1.

    Shape:
        - logits: ``(N, classes)``
        - labels: ``(N,)``

    Raises:
        TypeError: If the logits are no QTensor of int32.
        ValueError: If the logits are no (N, classes), a label is none of the classes, or the
            smoothing is out of range.
    """
    _check_types(logits, labels)
    if not 0 <= smoothing <= 1:
        raise ValueError(
            f"expected a smoothing in [0, 1], got {smoothing}; 0 leaves the labels as they are"
        )
    values = logits.values
    _check(values, labels)
    probability, below, total = _softmax(values, logits.exponent)
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
    exponent = shift - PROBABILITY_BITS - MEAN_BITS
    of_label = below[rows, labels].tolist()
    of_all = below.sum(1).tolist()  # of which a smoothed target takes the mean
    distance = [
        (1 - smoothing) * b + smoothing * a / classes for b, a in zip(of_label, of_all, strict=True)
    ]
    return Loss(QTensor(error, exponent), _mean_nats(distance, total[:, 0].tolist()))


def squared_error(network: IntegerNetwork, output: QTensor, target: QTensor) -> Loss:
    """Return the mean squared error of a batch and its gradient, every tensor in integers.

    Args:
        network: The network the output came from; it numbers the random bits of the rounding.
        output: What the network returned.
        target: What it should have been, in any exponent.

    Shape:
        - output, target: the same

    Raises:
        TypeError: If one of them is no QTensor.
        ValueError: If their shapes differ, or there is nothing in them.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from l1bn import quantized
        >>> network = quantized.prepare(nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8)))
        >>> x = quantized.quantize(torch.randn(4, 8), exponent=-5)
        >>> network.backward(quantized.squared_error(network, network(x), x).error)
    """
    for name, value in (("output", output), ("target", target)):
        if not isinstance(value, QTensor):
            raise TypeError(
                f"expected the {name} as a QTensor, got {type(value).__name__}; quantize it first"
            )
    if output.shape != target.shape or output.values.numel() == 0:
        raise ValueError(
            f"expected output and target of one shape, got {tuple(output.shape)} and "
            f"{tuple(target.shape)}"
        )
    low, high = sorted((output.exponent, target.exponent))
    out = max(low, high - MAX_GAP)
    parts = [in_steps(q.values, max(q.exponent - out, -MAX_SHIFT)) for q in (output, target)]
    difference = parts[0] - parts[1]
    shift = peak_shift(int(difference.abs().max()), DIFFERENCE_BITS)
    narrow = (difference + ((1 << shift) >> 1)) >> shift
    inverse, down = reciprocal_of(narrow.numel())
    wide = channels_last((narrow * inverse).int())
    bits = network.config.error_bits
    right = peak_shift(int(wide.abs().max()), bits)
    noise = network.clock.noise(0, 0)
    error = network.clock.kernels(wide).rescale(wide, right, bits, noise)
    mean = int((narrow * narrow).sum()) / narrow.numel()
    exponent = out + shift - down + 1 + right
    return Loss(QTensor(error, exponent), math.ldexp(mean, 2 * (out + shift)))


def _softmax(logits: Tensor, exponent: int) -> tuple[Tensor, Tensor, Tensor]:
    """See ``l1bn.fixed_point.loss.softmax``.

    Returns:
        The probabilities, how far each logit is below the largest [bits · 2**10], and the sum of
        the powers [2**-15].
    """
    wide = logits.long()
    below = (wide.amax(1, keepdim=True) - wide) * LOG2_E
    shift = LOG2_E_BITS - TABLE_BITS - exponent
    below = below >> min(shift, MAX_SHIFT) if shift >= 0 else _shift_left(below, -shift)
    table = torch.from_numpy(TABLE).to(logits.device)
    power = table[below & ((1 << TABLE_BITS) - 1)] >> (below >> TABLE_BITS).clamp(max=MAX_SHIFT)
    total = power.sum(1, keepdim=True)
    return ((power << PROBABILITY_BITS) + total // 2) // total, below, total


def _shift_left(value: Tensor, shift: int) -> Tensor:
    up = min(shift, MAX_SHIFT)
    return value.clamp(max=(1 << MAX_SHIFT) >> up) << up


def _mean_nats(below: list[float], total: list[int]) -> float:
    """Mean of −ln p, from the integers: log2(total) − 15 + below / 2**10, in nats."""
    bits = [
        math.log2(t) - ONE_BITS + b / (1 << TABLE_BITS) for b, t in zip(below, total, strict=True)
    ]
    return math.log(2) * sum(bits) / len(bits)


def _check_types(logits: QTensor, labels: Tensor) -> None:
    if not isinstance(logits, QTensor) or logits.values.dtype != torch.int32:
        got = logits.values.dtype if isinstance(logits, QTensor) else type(logits).__name__
        raise TypeError(
            f"expected logits as a QTensor of torch.int32, got {got}; give what the "
            "network returned"
        )
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"expected labels as a tensor of torch.int64, got {type(labels).__name__}; "
            "call torch.tensor(labels)"
        )


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits (N, classes) and labels (N,), got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if not 0 < len(labels) <= 1 << MEAN_BITS:
        raise ValueError(
            f"expected 1 to {1 << MEAN_BITS} rows, whose mean has {MEAN_BITS} fraction bits, got "
            f"{len(labels)}; take another batch size"
        )
    if labels.dtype != torch.int64:
        raise ValueError(f"expected labels of torch.int64, got {labels.dtype}; call labels.long()")
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]):
        raise ValueError(
            f"expected labels 0 to {logits.shape[1] - 1}, got {int(labels.min())} to "
            f"{int(labels.max())}; build the model with as many classes as the data has"
        )
