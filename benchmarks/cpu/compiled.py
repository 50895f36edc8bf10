"""Training steps of compiled and eager networks on the CPU, BatchNorm against L1BN, and bytes kept.

    python -m benchmarks.cpu.compiled
    python -m benchmarks.cpu.compiled --network resnet20 --threads 1   # a part, over its rows

Writes ``results/compiled.csv`` and its environment, piece by piece. A step is forward, loss,
backward and SGD with momentum on 64 images of 32 x 32 pixels. ``ratio`` is the median over rounds
of compiled BatchNorm's step over this row's. "L1BN formula" has the layers' ``backend="eager"``:
the compiler sees the formula in place of the operators. The first run compiles, which takes
minutes; the compiler keeps a cache.
"""

from __future__ import annotations

import argparse
from itertools import product
from typing import Any

import torch
from torch import nn

from benchmarks.cpu.networks import stepper
from benchmarks.harness import (
    clock_for,
    interleave,
    median_ratio,
    milliseconds,
    refuse_on_red,
    replace_rows,
)
from benchmarks.models.conversion import saved_bytes
from l1bn.nn import L1BatchNorm2d
from l1bn.recipes.models import ModelSpec, build_model

NETWORKS = ["resnet20", "mobilenet"]
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
THREADS = [1, 2]
NORMS = {"BatchNorm": "l2", "L1BN": "l1", "L1BN formula": "l1"}
IMAGES, PIXELS = 64, 32
SPEC = ModelSpec(in_channels=3, image_size=PIXELS, num_classes=10)
BASELINE = ("BatchNorm", "compiled")


def network(name: str, norm: str, layout: torch.memory_format) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(name, NORMS[norm], SPEC).to(memory_format=layout).train()
    if norm == "L1BN formula":
        for layer in model.modules():
            if isinstance(layer, L1BatchNorm2d):
                layer.backend = "eager"
    return model


def measure(name: str, layout: str, threads: int, rounds: int) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    torch.compiler.reset()
    shape = IMAGES, 3, PIXELS, PIXELS
    x = torch.randn(shape).contiguous(memory_format=LAYOUTS[layout])
    models: dict[tuple[str, str], Any] = {}
    for norm in NORMS:
        models[norm, "eager"] = network(name, norm, LAYOUTS[layout])
        models[norm, "compiled"] = torch.compile(network(name, norm, LAYOUTS[layout]))
    clock = clock_for(threads, False)
    steps = {" ".join(key): stepper(model, x, clock) for key, model in models.items()}
    samples = {
        key: [s[0] for s in found]
        for key, found in zip(models, interleave(steps, rounds).values(), strict=True)
    }
    rows = []
    for (norm, how), found in samples.items():
        low, middle, high = milliseconds(found)
        rows.append(
            {
                "network": name,
                "layout": layout,
                "threads": threads,
                "norm": norm,
                "how": how,
                "step_ms": middle,
                "step_q1": low,
                "step_q3": high,
                "ratio": median_ratio(samples[BASELINE], found),
                "kept_bytes": saved_bytes(models[norm, how], x),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="steps of each network")
    parser.add_argument("--network", choices=NETWORKS, nargs="*", default=NETWORKS)
    parser.add_argument("--layout", choices=LAYOUTS, nargs="*", default=list(LAYOUTS))
    parser.add_argument("--threads", type=int, nargs="*", default=THREADS)
    parser.add_argument("--tested", action="store_true", help="the tests have just passed")
    parser.add_argument("--warm", action="store_true", help="fill the compiler's cache, write none")
    options = parser.parse_args()
    if not options.tested:
        refuse_on_red("tests/ops/cpu/test_operators.py")
    for piece in product(options.network, options.layout, options.threads):
        new = measure(*piece, options.rounds)
        base = next(r for r in new if (r["norm"], r["how"]) == BASELINE)
        for row in new:
            mebibytes, part = row["kept_bytes"] / 2**20, row["kept_bytes"] / base["kept_bytes"]
            speed = f"{row['step_ms']} ms, {row['ratio']:.2f}x"
            kept = f"{mebibytes:.1f} MiB kept, {part:.2f}"
            print(*piece, row["norm"], row["how"], speed, kept, flush=True)
        if not options.warm:
            print(replace_rows("compiled", new, ("network", "layout", "threads")), flush=True)


if __name__ == "__main__":
    main()
