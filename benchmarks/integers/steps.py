"""Training steps in integers against float32 L1BN and BatchNorm, and the bytes kept for backward.

    python -m benchmarks.integers.steps

Writes ``results/integer_steps.csv`` and its environment. A step is forward, loss, backward and SGD
with momentum and weight decay, on one batch of 128 CIFAR-sized images, channels_last.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import interleave, quartiles, refuse_on_red, seconds, write
from benchmarks.models.conversion import saved_bytes
from l1bn import quantized
from l1bn.recipes.models import ModelSpec, build_model
from l1bn.strided_conv import to_channels_last_

NETWORKS = {"resnet20": 1.0, "vgg7": 0.25}
SPEC = {"in_channels": 3, "image_size": 32, "num_classes": 10}
BATCH = 128
VARIANTS = {"l2": "float32 BatchNorm", "l1": "float32 L1BN", "int8": "int8 L1BN"}


def float_stepper(model: nn.Module, x: Tensor, target: Tensor) -> Callable[[], tuple[float]]:
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), target).backward()
        optimizer.step()

    return lambda: (seconds(step),)


def integer_stepper(
    network: quantized.IntegerNetwork, x: quantized.QTensor, target: Tensor
) -> Callable[[], tuple[float]]:
    optimizer = quantized.SGD(network, lr=1e-3, weight_decay=5e-4)

    def step() -> None:
        loss = quantized.cross_entropy(network, network(x), target)
        network.backward(loss.error)
        optimizer.step()

    return lambda: (seconds(step),)


def integer_bytes(network: quantized.IntegerNetwork, x: quantized.QTensor) -> int:
    network(x)
    return network.kept_bytes()


def measure(name: str, width: float, rounds: int) -> list[dict[str, Any]]:
    x = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    target = torch.randint(10, (BATCH,))
    codes = quantized.quantize(x, -5)
    models = {}
    for norm in ("l2", "l1"):
        torch.manual_seed(0)
        models[norm] = build_model(name, norm, ModelSpec(**SPEC, width=width)).train()
    network = quantized.prepare(models["l1"])
    models = {norm: to_channels_last_(model) for norm, model in models.items()}
    kept = {norm: saved_bytes(model, x) for norm, model in models.items()}
    kept["int8"] = integer_bytes(network, codes)
    steps = {norm: float_stepper(model, x, target) for norm, model in models.items()}
    steps["int8"] = integer_stepper(network, codes, target)
    times = {k: quartiles([s[0] for s in v]) for k, v in interleave(steps, rounds).items()}
    return [
        {
            "network": name,
            "width": width,
            "batch": BATCH,
            "variant": title,
            "threads": torch.get_num_threads(),
            "step_ms": round(times[key][1] * 1e3, 2),
            "step_q1": round(times[key][0] * 1e3, 2),
            "step_q3": round(times[key][2] * 1e3, 2),
            "speedup_over_bn": round(times["l2"][1] / times[key][1], 3),
            "kept_mib": round(kept[key] / 2**20, 2),
            "kept_over_bn": round(kept[key] / kept["l2"], 3),
        }
        for key, title in VARIANTS.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, torch.get_num_threads()])
    options = parser.parse_args()
    refuse_on_red("tests/quantized", "tests/ops/int8/test_conv.py", "tests/ops/int8/test_norm.py")
    rows = []
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        for name, width in NETWORKS.items():
            rows += measure(name, width, options.rounds)
            for row in rows[-len(VARIANTS) :]:
                print(row, flush=True)
    print(write("integer_steps", rows))


if __name__ == "__main__":
    main()
