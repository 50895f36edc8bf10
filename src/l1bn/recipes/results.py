"""The records in the files of results: of one run, of a comparison, of a comparison of GANs.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from l1bn.recipes.names import NormName

RESULTS = "results.json"
"""Name of a comparison's results in its folder."""
CURVES = "curves.csv"
"""Name of the curves of all its runs."""

Settings = dict[str, object]
"""A configuration, or an environment, as plain values."""


class SummaryRecord(TypedDict):
    """A mean over seeds, as ``l1bn.recipes.statistics.Summary``."""

    mean: float
    std: float
    n: int


class DifferenceRecord(TypedDict):
    """A difference of means, as ``l1bn.recipes.statistics.Difference``."""

    mean: float
    paired: Sequence[float] | None
    welch: Sequence[float] | None
    detected: bool | None


class Quartiles(TypedDict):
    """Quartiles of timed rounds."""

    q25: float
    median: float
    q75: float


class StepRecord(TypedDict):
    """The time of a training step: quartiles per norm [s], and of the ratio BN / L1BN by round."""

    batch_size: int
    rounds: int
    l1: Quartiles
    l2: Quartiles
    l2_over_l1: Quartiles


class Measured(TypedDict):
    """What ``measured.json`` holds: costs, and deviation ratios by run and layer."""

    format: str
    environment: Settings
    batch_size: int
    step_seconds: dict[NormName, list[float]]
    saved_bytes: dict[NormName, int]
    deviation_ratios: dict[str, dict[str, list[float]]]


class _Finished(TypedDict):
    config: Settings
    test_accuracy: float
    test_loss: float
    train_loss: float
    seconds: float
    parameters: int


class RunResult(_Finished, total=False):
    """``result.json`` of a classifier's run; older versions wrote fewer entries."""

    data: Settings
    class_accuracy: list[float]
    images_per_second: float
    threads: int
    processes: int


class RunRow(TypedDict):
    """What the results of a comparison keep of one run."""

    norm: NormName
    seed: int
    test_accuracy: float


class CompareResults(TypedDict):
    """``results.json`` of a comparison."""

    format: str
    environment: Settings
    config: Settings
    data: Settings
    parameters: int
    runs: list[RunRow]
    summary: dict[NormName, dict[str, SummaryRecord]]
    difference: DifferenceRecord
    step: StepRecord
    saved_bytes: dict[NormName, int]
    deviation_ratios: dict[str, dict[str, list[float]]]


class DistanceRecord(TypedDict):
    """What a distance was measured with; the distance of as many training images gives a scale."""

    name: str
    classifier: str
    sha256: str
    features: int
    images: int
    distance_of_training_images: float


class MeasuredDistance(DistanceRecord):
    """A distance, and what it was measured with."""

    value: float


class _GanFinished(TypedDict):
    config: Settings
    parameters: dict[str, int]
    steps: int
    critic_loss: float
    generator_loss: float
    real_score: float
    fake_score: float
    penalty: float
    seconds: float
    threads: int


class GanRunResult(_GanFinished, total=False):
    """``result.json`` of a GAN's run; older versions wrote fewer entries."""

    data: Settings
    processes: int
    distance: MeasuredDistance


class _GanRow(TypedDict):
    norm: NormName
    seed: int
    critic_loss: float
    generator_loss: float
    real_score: float
    fake_score: float
    penalty: float
    seconds: float
    threads: int


class GanRunRow(_GanRow, total=False):
    """What the results of a comparison keep of one GAN."""

    distance: float


class _GanResults(TypedDict):
    format: str
    environment: Settings
    config: Settings
    data: Settings
    parameters: dict[str, int]
    steps: int
    runs: list[GanRunRow]
    summary: dict[NormName, dict[str, SummaryRecord]]
    loss_differences: dict[str, DifferenceRecord]


class GanResults(_GanResults, total=False):
    """``results.json`` of a comparison of GANs; a distance where a classifier measured it."""

    distance: DistanceRecord
    difference: DifferenceRecord
