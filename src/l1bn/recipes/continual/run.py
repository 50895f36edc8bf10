"""Runs a comparison of continual learning; finished runs are not repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from l1bn.errors import UserError
from l1bn.quantized import QTensor
from l1bn.recipes.classification.integer import IntegerPreprocess
from l1bn.recipes.classification.schedule import cosine
from l1bn.recipes.continual.config import ContinualConfig, Learner
from l1bn.recipes.continual.learners import Learning, build
from l1bn.recipes.continual.memory import Memory
from l1bn.recipes.continual.streams import Task, joint_task, tasks_of
from l1bn.recipes.data import ImageSet, load_data
from l1bn.recipes.files.writing import write_json
from l1bn.recipes.machine.threads import thread_count

JOINT = "joint"
Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One network over the whole stream.

    Attributes:
        learner: What learns.
        buffer: What is kept for rehearsal; None trains on all tasks at once.
        seed: Seed of weights, images and order.
    """

    learner: Learner
    buffer: int | None
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        kept = JOINT if self.buffer is None else f"buffer{self.buffer}"
        return f"{self.learner}-{kept}-seed{self.seed}"


def runs_of(config: ContinualConfig) -> Iterator[Run]:
    """Yield all runs, seed by seed, so that a stopped comparison has whole seeds."""
    buffers: list[int | None] = [*config.buffers, *([None] if config.joint else [])]
    for seed in range(config.seeds):
        for buffer in buffers:
            for learner in config.learners:
                yield Run(learner, buffer, seed)


def compare(config: ContinualConfig, say: Callable[[str], None]) -> list[Record]:
    """Run what is missing, and return the records of all runs.

    Raises:
        UserError: If the folder holds runs of other options or images.
    """
    data = load_data(
        config.data, image_column=config.image_column, label_column=config.label_column
    )
    records = []
    with thread_count(config.threads):
        for run in runs_of(config):
            path = config.out / "runs" / f"{run.name}.json"
            record = _finished(config, data, path)
            if record is None:
                record = _record(config, data, run)
                write_json(path, record)
                last = record["matrix"][-1]
                mean = sum(last) / len(last)
                say(f"{run.name}: {mean:.2%} of all tasks after {record['seconds']:.0f} s")
            records.append(record)
    write_json(config.out / "results.json", {"config": _deciding(config), "runs": records}, 1)
    return records


def _deciding(config: ContinualConfig) -> Record:
    """The options that decide a run."""
    others = {"out", "threads", "progress", "seeds", "buffers", "learners", "joint", "data"}
    return {k: v for k, v in config.saved().items() if k not in others}


def _finished(config: ContinualConfig, data: ImageSet, path: Path) -> Record | None:
    if not path.is_file():
        return None
    record: Record = json.loads(path.read_text())
    data.check_same(record["data"], path)
    now, then = _deciding(config), record["config"]
    changed = [k for k in now if then.get(k) != now[k]]
    if changed:
        what = ", ".join(f"{k} {then.get(k)}, not {now[k]}" for k in changed)
        raise UserError(f"{path} was made with {what}; choose another folder with --out")
    return record


def _record(config: ContinualConfig, data: ImageSet, run: Run) -> Record:
    start = time.monotonic()
    matrix, kibibytes = learn(config, data, run)
    return {
        "learner": run.learner,
        "buffer": run.buffer,
        "seed": run.seed,
        "tasks": [task.name for task in tasks_of(config, data, run.seed)],
        "matrix": matrix,
        "buffer_kib": kibibytes,
        "seconds": time.monotonic() - start,
        "config": _deciding(config),
        "data": data.fingerprint,
    }


def learn(config: ContinualConfig, data: ImageSet, run: Run) -> tuple[list[list[float]], float]:
    """Learn a stream; return the accuracy matrix, and the size of what is kept [KiB]."""
    tasks = tasks_of(config, data, run.seed)
    stream = [joint_task(tasks)] if run.buffer is None else tasks
    pixels = IntegerPreprocess(data, torch.device("cpu"))
    learner = build(config, run.learner, data, run.seed)
    memory = Memory(run.buffer or 0, run.seed)
    order = torch.Generator().manual_seed(run.seed)
    matrix = []
    for index, task in enumerate(stream):
        x = learner.encode(pixels(task.train.images))
        _learn_task(config, learner, x, task, memory, order)
        if index == 0 and len(stream) > 1:
            learner.end_first_task()
            x = learner.encode(pixels(task.train.images))
        memory.add(x, task.train.labels)
        matrix.append([_accuracy(learner, pixels, other) for other in tasks])
    return matrix, memory.kibibytes


def _learn_task(
    config: ContinualConfig,
    learner: Learning,
    x: QTensor,
    task: Task,
    memory: Memory,
    order: torch.Generator,
) -> None:
    size = min(config.batch_size, len(task.train))
    steps = config.epochs * (len(task.train) // size)
    places = torch.cat(
        [torch.randperm(len(task.train), generator=order) for _ in range(config.epochs + 1)]
    )
    for step in range(steps):
        chosen = places[step * size : (step + 1) * size]
        values, labels = x.values[chosen], task.train.labels[chosen]
        if len(memory):
            old, classes = memory.draw(size)
            values, labels = torch.cat([values, old.values]), torch.cat([labels, classes])
        learner.step(_batch(values, x.exponent), labels, cosine(step / steps))


def _batch(values: torch.Tensor, exponent: int) -> QTensor:
    return QTensor(values.contiguous(memory_format=torch.channels_last), exponent)


def _accuracy(learner: Learning, pixels: IntegerPreprocess, task: Task) -> float:
    right = learner.predict(pixels(task.test.images)) == task.test.labels
    return int(right.sum()) / len(right)
