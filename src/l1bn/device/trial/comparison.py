"""Does in Python what a device did, and says where the two differ."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from l1bn import quantized
from l1bn.device.program.build import Build
from l1bn.device.trial.run import Outcome, Work

Logits = list[npt.NDArray[np.int32]]


def difference(build: Build, work: Work, outcome: Outcome) -> str | None:
    """Return what a device computed otherwise than Python, or None where every integer is equal.

    The network learns and is in evaluation mode afterwards.

    Args:
        build: The network, as it was when it was written for the device.
        work: What both do.
        outcome: What the device did.
    """
    wanted, chosen = _steps(build, work)
    if list(outcome.chosen) != chosen:
        return "which layers learn"
    state = build.layout.pack()
    build.network.eval()
    wanted += [_infer(build, work, image) for image in range(work.inferences)]
    if len(outcome.logits) != len(wanted):
        return "the number of logits"
    for place, (got, own) in enumerate(zip(outcome.logits, wanted, strict=True)):
        if not np.array_equal(got, own):
            step = place - len(work.rates)
            return f"logits of step {place}" if step < 0 else f"logits of inference {step}"
    return None if outcome.state == state else "state"


def _images(work: Work, first: int, count: int) -> quantized.QTensor:
    return quantized.QTensor(work.images.values[first : first + count], work.images.exponent)


def _steps(build: Build, work: Work) -> tuple[Logits, list[int]]:
    """Take the training steps; return of each the logits before it, and what learned."""
    network, options, blocks = build.network, build.options, build.blocks
    if not work.rates:
        return [], []
    optimizer = quantized.SGD(
        network, 0.0, options.momentum, options.weight_decay, options.nesterov
    )
    found, sets = [], []
    norms = [0] * len(blocks.layers)
    plan = zip(work.rates, work.learning(), work.measuring(), strict=True)
    for step, (rate, given, largest) in enumerate(plan):
        chosen = blocks.largest(norms, largest) if largest else given & blocks.all
        blocks.limit(network, chosen)
        first = step * options.batch
        logits = network(_images(work, first, options.batch))
        labels = work.labels[first : first + options.batch]
        loss = quantized.cross_entropy(network, logits, labels, options.smoothing)
        network.backward(loss.error)
        if largest:
            now = blocks.norms(network)
            norms = [n if chosen >> i & 1 else norms[i] for i, n in enumerate(now)]
        optimizer.lr = rate
        optimizer.step()
        found.append(_flat(logits))
        sets.append(chosen)
    blocks.limit(network)
    return found, sets


def _infer(build: Build, work: Work, image: int) -> npt.NDArray[np.int32]:
    return _flat(build.network(_images(work, image, 1)))


def _flat(logits: quantized.QTensor) -> npt.NDArray[np.int32]:
    return logits.values.cpu().numpy().astype(np.int32).reshape(-1)
