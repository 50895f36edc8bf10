"""What the numbers of a comparison say, in sentences, whichever way they point."""

from __future__ import annotations

from l1bn.recipes.names import NormName
from l1bn.recipes.results import CompareResults, DifferenceRecord, StepRecord
from l1bn.recipes.statistics import excludes_zero

NAMES: dict[NormName, str] = {"l1": "L1BN", "l2": "BN"}
"""What readers call the norms."""

_SAME = 0.01
"""Relative difference below which two sizes are called equal."""


def mebibytes(count: float) -> str:
    """Return a number of bytes as text."""
    return f"{count / 2**20:.1f} MiB"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")


def detected_sentence(difference: DifferenceRecord, larger: str, smaller: str) -> str | None:
    """Say what the intervals of a difference show, None if they show nothing.

    Args:
        difference: As in ``results.json``, of several seeds.
        larger: Which norm is better if L1BN − BN is positive.
        smaller: Which one is if it is negative.
    """
    better = larger if difference["mean"] > 0 else smaller
    if difference["detected"]:
        return f"Both exclude zero: {better} is better here."
    if excludes_zero(difference["paired"]):
        return (
            f"Only the paired one excludes zero: seed by seed {better} is better here, "
            "by less than seeds differ among themselves."
        )
    return None


def accuracy_sentence(results: CompareResults) -> str:
    """Say whether the test accuracies differ by more than seed noise, and what could be seen."""
    difference = results["difference"]
    seeds = results["summary"]["l1"]["test_accuracy"]["n"]
    text = f"L1BN − BN = {_points(difference['mean'])} points of test accuracy"
    paired, welch = difference["paired"], difference["welch"]
    if paired is None or welch is None:
        return f"{text} with one seed, which cannot tell a difference from seed noise."
    low, high = paired
    welch_low, welch_high = welch
    text += (
        f" over {seeds} seeds; 95 % intervals {_points(low)} to {_points(high)} (paired), "
        f"{_points(welch_low)} to {_points(welch_high)} (Welch). "
    )
    if shown := detected_sentence(difference, "L1BN", "BN"):
        return text + shown
    half = max(high - low, welch_high - welch_low) / 2
    return text + (
        "No difference beyond seed noise was found; with so many seeds only one larger than about "
        f"{100 * half:.2g} points would have shown."
    )


def _time_sentence(step: StepRecord) -> str:
    """Compare the step times by the rounds' ratios, which a busy machine disturbs least."""
    ratio = step["l2_over_l1"]
    l1, l2 = 1e3 * step["l1"]["median"], 1e3 * step["l2"]["median"]
    detail = (
        f"medians {l1:.1f} and {l2:.1f} ms; BN / L1BN by round {ratio['median']:.2f}, "
        f"quartiles {ratio['q25']:.2f} to {ratio['q75']:.2f}"
    )
    if ratio["q25"] <= 1 <= ratio["q75"]:
        return f"A training step takes about as long with both ({detail})."
    if ratio["median"] > 1:
        return f"A training step is {ratio['median']:.2f}× as fast with L1BN ({detail})."
    return f"A training step takes {1 / ratio['median']:.2f} times as long with L1BN ({detail})."


def _memory_sentence(saved: dict[NormName, int]) -> str:
    l1, l2 = saved["l1"], saved["l2"]
    detail = f"{mebibytes(l1)} and {mebibytes(l2)}"
    if abs(l1 / l2 - 1) < _SAME:
        return f"Saved activation memory is the same with both ({detail})."
    return f"Saved activation memory with L1BN is {l1 / l2:.2f} of that with BN ({detail})."


def cost_sentences(results: CompareResults) -> list[str]:
    """Say what a training step costs with either norm."""
    return [_time_sentence(results["step"]), _memory_sentence(results["saved_bytes"])]


def verdict(results: CompareResults) -> list[str]:
    """Return the sentences that sum a comparison up."""
    return [accuracy_sentence(results), *cost_sentences(results)]
