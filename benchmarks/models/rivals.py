"""L1BN beside other ways to save time or memory: steps, peak memory, largest batch.

    python -m benchmarks.models.rivals
    python -m benchmarks.models.rivals --network resnet18 --layout NCHW   # written over its rows

Writes ``results/rivals.csv`` and its environment. Networks of torchvision, 8 images of 128 x 128
pixels, variants in turns:

- BatchNorm: the network as it is
- L1BN: after ``l1bn.convert_``
- BatchNorm, checkpointed: each block under ``torch.utils.checkpoint`` that saves what convolutions
  return and computes norms and activations again, which moves running statistics twice
- GroupNorm: 32 groups, or fewer where there are fewer channels; another function
- BatchNorm, compiled and L1BN, compiled: by ``torch.compile``

In-Place ABN is left out: nothing here installs it. A step is forward, mean square of the outputs,
backward, SGD with momentum. Memory as in ``architectures.py``.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import benchmarks.models.torchvision_operators  # noqa: F401 - before torchvision
import l1bn
from benchmarks.harness import interleave, refuse_on_red, replace_rows
from benchmarks.models.architectures import BATCH, LAYOUTS, images, times, trainer
from benchmarks.models.peak import peaks, print_peak

NETWORKS = ["resnet18", "resnet50", "mobilenet_v2"]
_BLOCKS = {"BasicBlock", "Bottleneck", "InvertedResidual"}


def _plain(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    models = importlib.import_module("torchvision.models")
    return models.get_model(name, num_classes=10, **options)


def _l1bn(name: str) -> nn.Module:
    model = _plain(name)
    l1bn.convert_(model)
    return model


def _group_norm(name: str) -> nn.Module:
    return _plain(name, norm_layer=lambda channels: nn.GroupNorm(math.gcd(32, channels), channels))


def _saved(_: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    """Save what convolutions return, compute the rest again."""
    if operator is torch.ops.aten.convolution.default:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _checkpointed(name: str) -> nn.Module:
    model = _plain(name)
    contexts = functools.partial(create_selective_checkpoint_contexts, _saved)
    for block in model.modules():
        if type(block).__name__ in _BLOCKS:
            body = functools.partial(
                checkpoint, block.forward, use_reentrant=False, context_fn=contexts
            )
            block.forward = body  # type: ignore[method-assign]
    return model


VARIANTS: dict[str, Callable[[str], Any]] = {
    "BatchNorm": _plain,
    "L1BN": _l1bn,
    "BatchNorm, checkpointed": _checkpointed,
    "GroupNorm": _group_norm,
    "BatchNorm, compiled": lambda name: torch.compile(_plain(name)),
    "L1BN, compiled": lambda name: torch.compile(_l1bn(name)),
}


def made(variant: str, name: str, layout: str, batch: int = BATCH) -> tuple[nn.Module, Tensor]:
    model = VARIANTS[variant](name).to(memory_format=LAYOUTS[layout])
    return model.train(), images(layout, batch)


def measure(name: str, layout: str, threads: int, rounds: int) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    torch.compiler.reset()
    steps = interleave({v: trainer(*made(v, name, layout)) for v in VARIANTS}, rounds)
    rows = []
    for variant in steps:
        low, at, high, ratio = times(steps, variant)
        row = {"network": name, "layout": layout, "threads": threads, "variant": variant}
        row |= {"step_ms": at, "step_q1": low, "step_q3": high, "ratio": ratio}
        # Of a compiled network the compiler's own memory would be the peak.
        compiled = variant.endswith("compiled")
        empty = {"peak_bytes": "", "largest": ""}
        row |= (
            empty if compiled else peaks("benchmarks.models.rivals", [variant, name, layout], BATCH)
        )
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each network, at least 20")
    parser.add_argument("--network", choices=NETWORKS, nargs="*", default=NETWORKS)
    parser.add_argument("--layout", choices=LAYOUTS, nargs="*", default=["channels_last"])
    parser.add_argument("--threads", type=int, nargs="*", default=[2])
    parser.add_argument("--tested", action="store_true", help="the tests have just passed")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        *which, batch = options.peak
        print_peak(trainer(*made(*which, int(batch))))
        return
    if not options.tested:
        refuse_on_red("tests/convert/fusion/test_fuse.py", "tests/ops/cpu/test_operators.py")
    for piece in product(options.network, options.layout, options.threads):
        rows = measure(*piece, max(20, options.rounds))
        replace_rows("rivals", rows, ("network", "layout", "threads"))
        for row in rows:
            print(*row.values(), flush=True)


if __name__ == "__main__":
    main()
