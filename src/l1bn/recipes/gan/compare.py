"""GANs with L1BN against GANs with BatchNorm: the same seeds, first weights, noise and batches."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, cast

from l1bn.environment import describe_environment
from l1bn.errors import UserError
from l1bn.recipes.data import ImageSet
from l1bn.recipes.files.checkpoint import CHECKPOINT, RESULT
from l1bn.recipes.files.curves import saved_rows
from l1bn.recipes.files.lock import shared_folder
from l1bn.recipes.files.writing import write_json, write_text
from l1bn.recipes.gan.adversaries import LOSS_COLUMNS, LossColumn
from l1bn.recipes.gan.config import GanCompareConfig, GanConfig
from l1bn.recipes.gan.distance import DISTANCE_NAME
from l1bn.recipes.gan.trainer import SAMPLES, load_gan_data, step_count, train_gan
from l1bn.recipes.machine.processes import Processes, joined_processes
from l1bn.recipes.machine.threads import thread_count
from l1bn.recipes.names import NORMS, NormName
from l1bn.recipes.results import (
    CURVES,
    RESULTS,
    DifferenceRecord,
    DistanceRecord,
    GanResults,
    GanRunResult,
    GanRunRow,
)
from l1bn.recipes.statistics import compare_paired, summarize

_FORMAT = "l1bn-gan-compare-1"
_Column = Literal[LossColumn, "seconds", "distance"]


def gan_pairs(config: GanCompareConfig) -> list[GanConfig]:
    """Return the runs of a comparison, seed by seed."""
    return [config.run(norm, seed).filled() for seed in range(config.seeds) for norm in NORMS]


def compare_gans(
    config: GanCompareConfig,
    say: Callable[[str], None] = print,
    follow: Callable[[str], None] | None = None,
) -> GanResults:
    """Train what is not yet trained, and collect the results.

    Args:
        config: What to compare.
        say: Receives a line after each finished run.
        follow: Receives a line with each grid of images.

    Returns:
        The content of ``results.json``.

    Raises:
        UserError: If the folder holds runs of another configuration.
        Interrupted: If the user pressed Ctrl-C; the same command continues.
    """
    config.validate()
    with joined_processes(config.device) as processes, shared_folder(config.out, processes):
        return _compare(config, processes, say, follow)


def _compare(
    config: GanCompareConfig,
    processes: Processes,
    say: Callable[[str], None],
    follow: Callable[[str], None] | None,
) -> GanResults:
    runs = gan_pairs(config)
    processes.from_first(lambda: _check_all(runs))
    data = processes.first_then_others(lambda: load_gan_data(config))
    steps = step_count(runs[0], len(data.train))
    processes.from_first(lambda: _check_whole(runs, steps, data))
    for number, run in enumerate(runs, 1):
        begun, done = processes.from_first(partial(_state_of, run))
        if done < steps:
            train_gan(run, data, resume=begun, say=follow)
        title = f"run {number} of {len(runs)}: {run.norm}, seed {run.seed}"
        processes.from_first(partial(_tell, run, title, say))
    return processes.from_first(lambda: _finish(config, data, runs))


def _finish(config: GanCompareConfig, data: ImageSet, runs: list[GanConfig]) -> GanResults:
    """Collect and write what came out."""
    with thread_count(config.threads):  # for the environment that it describes
        write_json(config.out / RESULTS, _collect(config, data, runs), indent=1)
    write_text(config.out / CURVES, _curves(runs))
    results: GanResults = json.loads((config.out / RESULTS).read_text(encoding="utf-8"))
    return results


def _state_of(run: GanConfig) -> tuple[bool, int]:
    """Whether a run was begun, and its steps if it is finished."""
    return (run.out / CHECKPOINT).exists(), _steps_done(run)


def _tell(run: GanConfig, title: str, say: Callable[[str], None]) -> None:
    say(f"{title}: {_line(_result(run))}")


def _result(run: GanConfig) -> GanRunResult:
    path = run.out / RESULT
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        result["config"] = dict(result["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; remove the folder to repeat that run") from error
    return result


def _steps_done(run: GanConfig) -> int:
    """Return the steps of a finished run, 0 if it is not finished."""
    return int(_result(run)["steps"]) if (run.out / RESULT).exists() else 0


def _check_whole(runs: list[GanConfig], steps: int, data: ImageSet) -> None:
    """Refuse finished runs that are longer, or were made otherwise."""
    for run in runs:
        _check_length(run, steps)
    _check_all(runs, data)


def _check_all(runs: list[GanConfig], data: ImageSet | None = None) -> None:
    for run in runs:
        _check_same(run, data)


def _check_length(run: GanConfig, steps: int) -> None:
    """Refuse a finished run that is longer."""
    if (done := _steps_done(run)) > steps:
        raise UserError(
            f"{run.out} has {done} steps, more than {steps}; ask for as many or more, or choose "
            "another folder with --out"
        )


def _check_same(run: GanConfig, data: ImageSet | None = None) -> None:
    """Refuse a finished run that was made otherwise."""
    if not (run.out / RESULT).exists():
        return
    result = _result(run)
    if data is not None and "data" in result:
        data.check_same(result["data"], run.out / RESULT)
    if changes := run.changes(result["config"], same_data="data" in result):
        raise UserError(f"{run.out} was made with {changes}; choose another folder with --out")


def _line(result: GanRunResult) -> str:
    if "distance" in result:
        text = f"{DISTANCE_NAME} {result['distance']['value']:.3f}"
    else:
        text = f"losses {result['critic_loss']:.3f} and {result['generator_loss']:.3f}"
    return f"{text} in {result['seconds']:.0f} s"


def _collect(config: GanCompareConfig, data: ImageSet, runs: list[GanConfig]) -> GanResults:
    finished = [_result(run) for run in runs]
    columns: list[_Column] = [*LOSS_COLUMNS, "seconds"]
    if config.classifier is not None:
        columns.append("distance")
        hashes = {r["distance"]["sha256"] for r in finished}
        if len(hashes) > 1:
            raise UserError(
                f"the runs in {config.out} were measured with different contents of "
                f"{config.classifier}, so that their distances cannot be compared; choose another "
                "folder with --out"
            )
    rows = [_row(run, result) for run, result in zip(runs, finished, strict=True)]
    by_norm = {n: [r for r in rows if r["norm"] == n] for n in NORMS}
    results: GanResults = {
        "format": _FORMAT,
        "environment": describe_environment(),
        "config": {
            k: str(v) if isinstance(v, Path) else v
            for k, v in {
                **dataclasses.asdict(config),
                **dataclasses.asdict(config.settings()),
            }.items()
        },
        "data": {
            "name": data.name,
            "train": len(data.train),
            "image_shape": list(data.train.images.shape[1:]),
        },
        "parameters": finished[0]["parameters"],
        "steps": finished[0]["steps"],
        "runs": rows,
        "summary": {
            n: {c: summarize([r[c] for r in by_norm[n]]).record() for c in columns} for n in NORMS
        },
        "loss_differences": {c: _difference(by_norm, c) for c in LOSS_COLUMNS},
    }
    if config.classifier is not None:
        measured = finished[0]["distance"]
        shared = {k: v for k, v in measured.items() if k != "value"}
        results["distance"] = cast(DistanceRecord, shared)
        results["difference"] = _difference(by_norm, "distance")
    return results


def _difference(by_norm: dict[NormName, list[GanRunRow]], column: _Column) -> DifferenceRecord:
    """Compare L1BN's runs with BN's in one column."""
    l1, l2 = ([r[column] for r in by_norm[n]] for n in NORMS)
    return compare_paired(l1, l2).record()


def _row(run: GanConfig, result: GanRunResult) -> GanRunRow:
    """Return the numbers of a run."""
    row: GanRunRow = {
        "norm": run.norm,
        "seed": run.seed,
        "critic_loss": result["critic_loss"],
        "generator_loss": result["generator_loss"],
        "real_score": result["real_score"],
        "fake_score": result["fake_score"],
        "penalty": result["penalty"],
        "seconds": result["seconds"],
        "threads": result["threads"],
    }
    if "distance" in result:
        row["distance"] = result["distance"]["value"]
    return row


def _curves(runs: list[GanConfig]) -> str:
    """Return the rows of all runs as one CSV."""
    text = io.StringIO()
    tables = [(run, saved_rows(run.out, SAMPLES, "gan")) for run in runs]
    columns = list(tables[0][1][0])
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["norm", "seed", *columns])
    for run, rows in tables:
        writer.writerows([run.norm, run.seed, *(row[c] for c in columns)] for row in rows)
    return text.getvalue()
