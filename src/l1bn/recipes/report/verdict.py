"""What the numbers of a comparison say, in sentences, whichever way they point."""

from __future__ import annotations

from typing import Any

__all__ = ["NAMES", "accuracy_sentence", "cost_sentences", "mebibytes", "verdict"]

NAMES = {"l1": "L1BN", "l2": "BN"}
"""What readers call the norms."""

_SAME = 0.01
"""Relative difference below which two costs are called equal."""


def mebibytes(count: float) -> str:
    """Return a number of bytes as text [MiB]."""
    return f"{count / 2**20:.1f} MiB"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", "−")


def accuracy_sentence(results: dict[str, Any]) -> str:
    """Say whether the test accuracies differ by more than seed noise, and what could be seen."""
    difference = results["difference"]
    seeds = results["summary"]["l1"]["test_accuracy"]["n"]
    text = f"L1BN − BN = {_points(difference['mean'])} points of test accuracy"
    if seeds == 1:
        return f"{text} with one seed, which cannot tell a difference from seed noise."
    low, high = difference["paired"]
    welch_low, welch_high = difference["welch"]
    text += (
        f" over {seeds} seeds; 95 % intervals {_points(low)} to {_points(high)} (paired), "
        f"{_points(welch_low)} to {_points(welch_high)} (Welch). "
    )
    if difference["detected"]:
        better = "L1BN" if difference["mean"] > 0 else "BN"
        return text + f"Both exclude zero: {better} is better here."
    half = max(high - low, welch_high - welch_low) / 2
    return text + (
        "No difference beyond seed noise was found; with so many seeds only one larger than about "
        f"{100 * half:.2g} points would have shown."
    )


def _cost(name: str, l1: float, l2: float, detail: str) -> str:
    if abs(l1 / l2 - 1) < _SAME:
        return f"{name} the same with both ({detail})."
    if l1 < l2:
        return f"{name} {l2 / l1:.2f} times smaller with L1BN ({detail})."
    return f"{name} {l1 / l2:.2f} times larger with L1BN ({detail})."


def cost_sentences(results: dict[str, Any]) -> list[str]:
    """Say what a training step costs with either norm."""
    step, saved = results["step"], results["saved_bytes"]
    ratio = step["l2_over_l1"]["median"]
    l1, l2 = (1e3 * step[n]["median"] for n in ("l1", "l2"))
    return [
        _cost("The time of a training step is", 1.0, ratio, f"median {l1:.1f} against {l2:.1f} ms"),
        _cost(
            "What the forward pass keeps for backward is",
            saved["l1"],
            saved["l2"],
            f"{mebibytes(saved['l1'])} against {mebibytes(saved['l2'])}",
        ),
    ]


def verdict(results: dict[str, Any]) -> list[str]:
    """Return the sentences that sum a comparison up."""
    return [accuracy_sentence(results), *cost_sentences(results)]
