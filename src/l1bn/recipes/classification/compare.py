"""L1BN against BatchNorm: the same seeds, first weights and batches; one folder of results."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics as std_statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, cast

from l1bn.environment import describe_environment
from l1bn.errors import UserError
from l1bn.recipes.classification.measure import deviation_ratios, saved_bytes, step_seconds
from l1bn.recipes.classification.run import load_recipe_data, train
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.config import CompareConfig, TrainConfig
from l1bn.recipes.data import ImageSet
from l1bn.recipes.files.checkpoint import CHECKPOINT, RESULT, load_checkpoint
from l1bn.recipes.files.curves import EPOCH_COLUMNS, saved_rows
from l1bn.recipes.files.lock import shared_folder
from l1bn.recipes.files.saved import check_tensors
from l1bn.recipes.files.writing import write_json, write_text
from l1bn.recipes.machine.processes import Processes, joined_processes
from l1bn.recipes.machine.threads import thread_count
from l1bn.recipes.names import NORMS
from l1bn.recipes.results import (
    CURVES,
    RESULTS,
    CompareResults,
    Measured,
    Quartiles,
    RunResult,
    RunRow,
    StepRecord,
)
from l1bn.recipes.statistics import compare_paired, summarize

MEASURED = "measured.json"
_FORMAT = "l1bn-compare-1"
_Score = Literal["test_accuracy", "test_loss", "train_loss"]
_SCORES: tuple[_Score, ...] = ("test_accuracy", "test_loss", "train_loss")
_MEASURED_FORMAT = "l1bn-measured-1"


def pairs(config: CompareConfig) -> list[TrainConfig]:
    """Return the runs of a comparison, seed by seed."""
    return [config.run(norm, seed) for seed in range(config.seeds) for norm in NORMS]


def compare(
    config: CompareConfig,
    say: Callable[[str], None] = print,
    follow: Callable[[str], None] | None = None,
) -> CompareResults:
    """Train what is not yet trained, measure what is not yet measured, and collect the results.

    Args:
        config: What to compare.
        say: Receives a line after each finished run.
        follow: Receives a line after each epoch.

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
    config: CompareConfig,
    processes: Processes,
    say: Callable[[str], None],
    follow: Callable[[str], None] | None,
) -> CompareResults:
    runs = pairs(config)
    processes.from_first(lambda: _check_all(runs))
    data = processes.first_then_others(lambda: load_recipe_data(config))
    processes.from_first(lambda: _check_all(runs, data))
    for number, run in enumerate(runs, 1):
        begun, finished = processes.from_first(partial(_state_of, run))
        if not finished:
            train(run, data, resume=begun, say=follow)
        title = f"run {number} of {len(runs)}: {run.norm}, seed {run.seed}"
        processes.from_first(partial(_tell, run, title, say))
    return processes.from_first(lambda: _finish(config, data, runs))


def _finish(config: CompareConfig, data: ImageSet, runs: list[TrainConfig]) -> CompareResults:
    """Measure, collect and write what came out."""
    with thread_count(config.threads):
        measured = _measured(config, data, runs)
    write_json(config.out / RESULTS, _collect(config, data, runs, measured), indent=1)
    write_text(config.out / CURVES, _curves(runs))
    results: CompareResults = json.loads((config.out / RESULTS).read_text(encoding="utf-8"))
    return results


def _result(run: TrainConfig) -> RunResult:
    """Read a finished run's result.

    Raises:
        UserError: If it is damaged.
    """
    path = run.out / RESULT
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        numbers = ("test_accuracy", "test_loss", "train_loss", "seconds", "parameters")
        whole = isinstance(result["config"], dict) and all(
            isinstance(result[n], (int, float)) for n in numbers
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; remove the folder to repeat that run") from error
    if not whole:
        raise UserError(f"{path} is damaged; remove the folder to repeat that run")
    return result


def _check_all(runs: list[TrainConfig], data: ImageSet | None = None) -> None:
    for run in runs:
        _check_same(run, data)


def _check_same(run: TrainConfig, data: ImageSet | None = None) -> None:
    """Refuse a finished run that was made otherwise."""
    path = run.out / RESULT
    if not path.exists():
        return
    result = _result(run)
    if data is not None and "data" in result:
        data.check_same(result["data"], path)
    if changes := run.changes(result["config"], same_data="data" in result):
        raise UserError(f"{run.out} was made with {changes}; choose another folder with --out")


def _state_of(run: TrainConfig) -> tuple[bool, bool]:
    """Whether a run was begun, and whether it is finished."""
    return (run.out / CHECKPOINT).exists(), (run.out / RESULT).exists()


def _tell(run: TrainConfig, title: str, say: Callable[[str], None]) -> None:
    result = _result(run)
    say(f"{title}: test accuracy {result['test_accuracy']:.2%} in {result['seconds']:.0f} s")


def _measured(config: CompareConfig, data: ImageSet, runs: list[TrainConfig]) -> Measured:
    """Return step times, saved bytes and deviation ratios, measured once per folder."""
    path = config.out / MEASURED
    if path.is_file() and not config.remeasure:
        try:
            measured: Measured = json.loads(path.read_text(encoding="utf-8"))
            same = measured["format"] == _MEASURED_FORMAT
            if same and len(measured["deviation_ratios"]) == len(runs):
                return measured
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged; measure anew with --remeasure") from error
    ratios: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        trainer = Trainer(run, data, Processes())
        saved_model = load_checkpoint(run.out / CHECKPOINT)["model"]
        check_tensors(run.out / CHECKPOINT, "model", saved_model, trainer.model.state_dict())
        trainer.model.load_state_dict(saved_model)
        ratios[run.out.name] = deviation_ratios(trainer)
    fresh = {norm: Trainer(config.run(norm, 0), data, Processes()) for norm in NORMS}
    saved = {norm: saved_bytes(trainer) for norm, trainer in fresh.items()}
    times = step_seconds(fresh, config.rounds)
    measured = {
        "format": _MEASURED_FORMAT,
        "environment": describe_environment(),
        "batch_size": min(config.batch_size, len(data.train)),
        "step_seconds": times,
        "saved_bytes": saved,
        "deviation_ratios": ratios,
    }
    write_json(path, measured)
    return measured


def _collect(
    config: CompareConfig, data: ImageSet, runs: list[TrainConfig], measured: Measured
) -> CompareResults:
    finished = [(run, _result(run)) for run in runs]
    by_norm = {n: [r for run, r in finished if run.norm == n] for n in NORMS}
    accuracy = {n: [r["test_accuracy"] for r in by_norm[n]] for n in NORMS}
    difference = compare_paired(accuracy["l1"], accuracy["l2"])
    return {
        "format": _FORMAT,
        "environment": measured["environment"],
        "config": {
            k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(config).items()
        },
        "data": {
            "name": data.name,
            "train": len(data.train),
            "test": len(data.test),
            "image_shape": list(data.train.images.shape[1:]),
            "classes": list(data.classes),
        },
        "parameters": finished[0][1]["parameters"],
        "runs": [_row(run, result) for run, result in finished],
        "summary": {
            n: {c: summarize([r[c] for r in by_norm[n]]).record() for c in _SCORES} for n in NORMS
        },
        "difference": difference.record(),
        "step": _step_summary(measured),
        "saved_bytes": measured["saved_bytes"],
        "deviation_ratios": measured["deviation_ratios"],
    }


def _row(run: TrainConfig, result: RunResult) -> RunRow:
    """Return what the results keep of a run: what all runs share stands there once."""
    own = {k: v for k, v in result.items() if k not in ("config", "parameters", "data")}
    return cast(RunRow, {"norm": run.norm, "seed": run.seed, **own})


def _step_summary(measured: Measured) -> StepRecord:
    """Summarise the timed rounds: quartiles per norm [s], and of the ratio BN / L1BN by round."""
    times = measured["step_seconds"]
    ratio = [b / a for a, b in zip(times["l1"], times["l2"], strict=True)]
    return {
        "batch_size": measured["batch_size"],
        "rounds": len(ratio),
        "l1": _quartiles(times["l1"]),
        "l2": _quartiles(times["l2"]),
        "l2_over_l1": _quartiles(ratio),
    }


def _quartiles(values: list[float]) -> Quartiles:
    if len(values) == 1:
        return {"q25": values[0], "median": values[0], "q75": values[0]}
    low, middle, high = std_statistics.quantiles(values, n=4, method="inclusive")
    return {"q25": low, "median": middle, "q75": high}


def _curves(runs: list[TrainConfig]) -> str:
    """Return the epochs of all runs as one CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["norm", "seed", *EPOCH_COLUMNS])
    for run in runs:
        for row in saved_rows(run.out, "epochs"):
            writer.writerow([run.norm, run.seed, *(row[c] for c in EPOCH_COLUMNS)])
    return text.getvalue()
