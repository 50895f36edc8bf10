"""Accuracy of one short training, with BatchNorm and with L1BN, over several seeds."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.gpu.scale import Run
from benchmarks.gpu.timing import Rows, environment


def _images(run: Run) -> Path:
    """The packed images; in a tiny run those that come with a package."""
    from benchmarks.gpu.pack import pack

    if run.images is not None:
        return run.images
    if run.scale.device == "cuda":
        raise ValueError(
            "expected --images FILE.npz for the part accuracy, got none: pack CIFAR-10 by "
            "`python benchmarks/gpu/pack.py uoft-cs/cifar10 cifar10.npz` where there is a network"
        )
    path = run.out / "digits.npz"
    pack("digits", path)
    return path


def measure_accuracy(run: Run) -> None:
    """Train with each seed and both norms in turn, as long as there is time; then compare."""
    from benchmarks.gpu.pack import unpack
    from benchmarks.gpu.parts.fast_net import Images, accuracy, trained

    path = _images(run)
    packed = unpack(path)
    images = Images(packed, run.scale.device, run.scale.schedule.most)
    rows = Rows(run.out / "accuracy.csv", environment())
    found: dict[str, list[float]] = {"BN": [], "L1BN": []}
    longest = 0.0
    for seed in range(run.scale.seeds):
        if run.scale.device == "cuda" and time.monotonic() + longest > run.ends:
            print(f"seeds from {seed} on left out: no time", flush=True)
            break
        began = time.monotonic()
        for variant, norm in (("BN", "l2"), ("L1BN", "l1")):
            start = time.monotonic()
            mirror = path.stem != "digits"
            model = trained(images, packed.classes, norm, seed, run.scale.schedule, mirror)
            told = accuracy(model, images)
            found[variant].append(told)
            rows.add(
                images=path.stem, variant=variant, seed=seed, accuracy=round(told, 2),
                seconds=round(time.monotonic() - start, 2),
            )  # fmt: skip
        longest = max(longest, time.monotonic() - began)
    if found["L1BN"]:
        _compare(run, found)


def _compare(run: Run, found: dict[str, list[float]]) -> None:
    """Means, spreads, and the 95 % intervals of the difference: by seed, and of two samples."""
    from l1bn.recipes.statistics import compare_paired, summarize

    means = {name: summarize(values) for name, values in found.items()}
    difference = compare_paired(found["L1BN"], found["BN"])
    paired, welch = difference.paired or (None, None), difference.welch or (None, None)
    Rows(run.out / "accuracy_summary.csv", environment()).add(
        seeds=means["BN"].n,
        bn_mean=means["BN"].mean, bn_std=means["BN"].std,
        l1bn_mean=means["L1BN"].mean, l1bn_std=means["L1BN"].std,
        difference=difference.mean, paired_low=paired[0], paired_high=paired[1],
        welch_low=welch[0], welch_high=welch[1],
    )  # fmt: skip
