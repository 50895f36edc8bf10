"""Measure L1BN's GPU kernels against nn.BatchNorm2d, part by part.

    python benchmarks/gpu/bench.py [--out results/FOLDER] [--parts tests copy operators networks]
    python benchmarks/gpu/bench.py --tiny     # the same from start to end, interpreted on a CPU

A quarter of an hour on one H200, without network. How long each part takes is estimated and printed
beforehand; a part for which not enough of ``--seconds`` is left is left out. Rows are written as
they come, so that an interrupted run keeps what it measured; every row names the card. Operators
are forward + backward of norm, addition and ReLU; rivals are torch's own (cuDNN where torch picks
it), eager and compiled, in one process in turn. Networks are training steps of `transformers`'
ResNet under bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.gpu.scale import FULL, TINY, Run
from benchmarks.gpu.timing import Rows, environment


class Part(NamedTuple):
    """A part of the benchmark.

    Attributes:
        function: module of ``benchmarks.gpu.parts`` and function.
        seconds: estimated for one H200.
        what: in a few words.
    """

    function: str
    seconds: int
    what: str


PARTS = {
    "tests": Part("tests.run_tests", 180, "the kernels against the judge, on the device"),
    "copy": Part("operators.measure_copy", 5, "bandwidth of a plain copy"),
    "operators": Part("operators.measure_operators", 150, "norm + ReLU, eager and compiled"),
    "networks": Part("networks.measure_networks", 120, "training steps and their peak memory"),
    "batch": Part("batch.measure_batch", 60, "the largest batch in 16 GiB"),
    "accuracy": Part("accuracy.measure_accuracy", 150, "a ResNet-9 on packed images, 5 seeds"),
    "gan": Part("gan.measure_gan", 45, "steps of DCGAN and WGAN-GP at full width"),
    "sanitizer": Part("sanitizer.run_sanitizer", 150, "the kernels under compute-sanitizer"),
    "plots": Part("plots.draw_plots", 10, "pictures of the tables"),
}


def announce(names: Sequence[str], seconds: float) -> None:
    """Say beforehand what is run and how long it is likely to take."""
    for name in names:
        print(f"{name:12} {PARTS[name].seconds:4} s estimated: {PARTS[name].what}")
    total = sum(PARTS[name].seconds for name in names)
    print(f"{'together':12} {total:4} s estimated, of {seconds:.0f} s", flush=True)


def run_parts(names: Sequence[str], run: Run) -> list[str]:
    """Run one after the other, write down how long each took, and return which failed."""
    rows, failed = Rows(run.out / "parts.csv", environment()), []
    for name in names:
        part, start = PARTS[name], time.monotonic()
        left = run.ends - start
        if left < part.seconds and run.scale.device == "cuda":
            print(f"== {name} left out: {part.seconds} s estimated, {left:.0f} s left", flush=True)
            rows.add(part=name, estimated_s=part.seconds, took_s=None, outcome="left out")
            continue
        print(f"== {name}", flush=True)
        outcome = "done"
        try:
            module, function = part.function.split(".")
            getattr(importlib.import_module(f"benchmarks.gpu.parts.{module}"), function)(run)
        except Exception:  # the other parts are worth their time all the same
            traceback.print_exc()
            outcome = "failed"
            failed.append(name)
        took = round(time.monotonic() - start, 1)
        rows.add(part=name, estimated_s=part.seconds, took_s=took, outcome=outcome)
    return failed


def main() -> int:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all")
    parser.add_argument("--seconds", type=float, default=900.0, help="for the whole run")
    parser.add_argument("--tiny", action="store_true", help="on a CPU, interpreted: no figures")
    parser.add_argument("--images", type=Path, help="packed by pack.py, for the part accuracy")
    options = parser.parse_args()
    if options.images is not None and not options.images.is_file():
        parser.error(f"expected --images as a file that pack.py wrote, got {options.images}")
    if options.tiny:
        os.environ["TRITON_INTERPRET"] = "1"
    scale = TINY if options.tiny else FULL
    parts = options.parts or list(PARTS)
    if not options.parts and not options.tiny and options.images is None:
        parts.remove("accuracy")
        print("accuracy left out: it needs --images")
    announce(parts, options.seconds)
    import torch

    if scale.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("expected a GPU, torch sees none: --tiny runs everything on a CPU")
    run = Run(scale, options.out, time.monotonic() + options.seconds, options.images)
    return min(1, len(run_parts(parts, run)))


if __name__ == "__main__":
    raise SystemExit(main())
