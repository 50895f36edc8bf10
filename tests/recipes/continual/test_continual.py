"""Streams, memory, measures and the command of continual learning."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from l1bn.cli import main
from l1bn.errors import UserError
from l1bn.quantized import QTensor
from l1bn.recipes.continual.config import LEARNERS, ContinualConfig
from l1bn.recipes.continual.learners import FloatLearning, IntegerLearning
from l1bn.recipes.continual.memory import Memory
from l1bn.recipes.continual.metrics import average_accuracy, backward_transfer, forgetting
from l1bn.recipes.continual.report import heat_maps
from l1bn.recipes.continual.run import Run, compare, learn
from l1bn.recipes.continual.streams import joint_task, tasks_of
from l1bn.recipes.data import load_data


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture
def config(tmp_path):
    return ContinualConfig(
        width=0.5,
        epochs=3,
        batch_size=32,
        seeds=1,
        buffers=(0, 100),
        tasks=2,
        out=tmp_path / "c",
    )


class TestStreams:
    def test_tasks_part_the_classes(self, digits):
        tasks = tasks_of(ContinualConfig(tasks=3), digits, 0)
        assert [t.name for t in tasks] == ["0-2", "3-5", "6-9"]
        assert sum(len(t.train) for t in tasks) == len(digits.train)
        assert set(tasks[1].test.labels.tolist()) == {3, 4, 5}
        assert len(joint_task(tasks).train) == len(digits.train)

    def test_domains_show_the_same_classes_in_another_way(self, digits):
        tasks = tasks_of(ContinualConfig(stream="domains", images=50), digits, 0)
        assert len({t.name for t in tasks}) == 5
        assert all(len(t.train) == 50 for t in tasks)
        first, turned, inverted = tasks[0], tasks[1], tasks[3]
        assert torch.equal(turned.train.images, first.train.images.rot90(1, (2, 3)))
        assert torch.equal(inverted.test.images, 255 - first.test.images)

    def test_too_few_classes_are_refused(self, digits):
        with pytest.raises(UserError, match="two classes for each of 6 tasks, got 10 classes"):
            tasks_of(ContinualConfig(tasks=6), digits, 0)


def numbered(labels: list[int], start: int = 0) -> tuple[QTensor, torch.Tensor]:
    values = (torch.arange(len(labels)) + start).to(torch.int8).view(-1, 1, 1, 1)
    return QTensor(values, -5), torch.tensor(labels)


class TestMemory:
    @pytest.mark.parametrize("capacity", [10, 11, 12])
    @pytest.mark.parametrize("mixed", [False, True], ids=["tasks", "mixed"])
    def test_no_time_is_favoured_even_where_classes_do_not_divide_the_capacity(
        self, capacity, mixed
    ):
        """Of three classes of 24, each third of each class is kept as often, within 5 σ."""
        classes, count, seeds = 3, 24, 400
        kept = torch.zeros(classes, count, dtype=torch.int64)
        labels = [i % classes for i in range(72)] if mixed else [i // count for i in range(72)]
        x, answers = numbered(labels)
        index = torch.tensor([labels[:i].count(label) for i, label in enumerate(labels)])
        for seed in range(seeds):
            memory = Memory(capacity, seed)
            for part in torch.arange(len(labels)).split(1):  # one by one: nothing is shuffled
                memory.add(QTensor(x.values[part], x.exponent), answers[part])
            assert max(Counter(memory.labels).values()) <= -(-capacity // classes)
            places = torch.cat([v.flatten() for v in memory._values]).long()
            kept.index_put_((answers[places], index[places]), torch.tensor(1), accumulate=True)
        thirds = kept.view(classes, 3, -1).sum(2).double()
        wanted = thirds.sum(1, keepdim=True) / 3
        assert ((thirds - wanted).abs() < 5 * wanted.sqrt()).all(), thirds

    def test_it_keeps_all_while_there_is_room_then_balances_the_classes(self):
        memory = Memory(12, seed=0)
        memory.add(*numbered([0] * 10))
        assert len(memory) == 10
        memory.add(*numbered([1] * 40))
        memory.add(*numbered([2] * 5 + [3] * 40))
        assert Counter(memory.labels) == {0: 3, 1: 3, 2: 3, 3: 3}
        assert memory.kibibytes == 12 / 1024

    def test_each_number_of_a_class_is_as_likely_to_stay(self):
        kept: Counter[int] = Counter()
        for seed in range(400):
            memory = Memory(10, seed)
            memory.add(*numbered([0] * 40))
            x, _ = memory.draw(10)
            kept.update(x.values.flatten().tolist())
        assert (len(kept), sum(kept.values())) == (40, 4000)
        assert min(kept.values()) > 60
        assert max(kept.values()) < 145

    def test_it_draws_what_it_keeps(self):
        memory = Memory(6, seed=0)
        memory.add(*numbered([0, 1, 2, 3, 4, 5]))
        x, labels = memory.draw(6)
        assert torch.equal(x.values.flatten().long(), labels)
        assert sorted(labels.tolist()) == [0, 1, 2, 3, 4, 5]
        more, _ = memory.draw(20)
        assert more.shape == (20, 1, 1, 1)
        with pytest.raises(ValueError, match="expected an exponent of -5, got -4"):
            memory.add(QTensor(x.values, -4), labels)


def test_measures_of_the_field():
    matrix = [[0.9, 0.0, 0.0], [0.5, 0.8, 0.0], [0.7, 0.2, 0.6]]
    assert average_accuracy(matrix) == pytest.approx(0.5)
    assert forgetting(matrix) == pytest.approx((0.2 + 0.6) / 2)
    assert backward_transfer(matrix) == pytest.approx((-0.2 - 0.6) / 2)
    matrix = [[0.4, 0.0, 0.0], [0.6, 0.8, 0.0], [0.5, 0.9, 0.6]]
    assert forgetting(matrix) == pytest.approx((0.1 - 0.1) / 2)
    assert backward_transfer(matrix) == pytest.approx((0.1 + 0.1) / 2)


@pytest.mark.parametrize("learner", ["float-l1", "int8-l1"])
def test_rehearsal_keeps_what_is_forgotten_without(config, digits, learner):
    forgets, size = learn(config, digits, Run(learner, 0, 0))
    keeps, more = learn(config, digits, Run(learner, 100, 0))
    assert forgets[0][0] > 0.8
    assert forgetting(forgets) > 0.5
    assert forgetting(keeps) < forgetting(forgets) - 0.3
    assert (size, more) == (0, 100 * 16 * 16 / 1024)


@pytest.mark.parametrize("learner", ["float-l1", "int8-l1"])
def test_tasks_may_be_smaller_than_a_batch(config, digits, learner, monkeypatch):
    seen = []

    def step(self, x, labels, rate):
        seen.append((len(x.values), len(labels)))

    for kind in (FloatLearning, IntegerLearning):
        monkeypatch.setattr(kind, "step", step)
    learn(replace(config, images=10, epochs=6), digits, Run(learner, 4, 0))
    assert seen == [(10, 10)] * 6 + [(20, 20)] * 6


def test_activations_can_be_rehearsed(config, digits):
    config = replace(config, replay="latent", learners=("int8-l1",), latent_layer="blocks.0.norm2")
    naive, _ = learn(config, digits, Run("int8-l1", 0, 0))
    matrix, size = learn(config, digits, Run("int8-l1", 100, 0))
    assert average_accuracy(matrix) > average_accuracy(naive) + 0.1
    assert size == 100 * 8 * 16 * 16 / 1024


def test_the_command_writes_results_and_repeats_nothing(config, capsys):
    arguments = (
        "continual --tasks 2 --seeds 1 --buffers 0 20 --epochs 1 --images 64 --width 0.25 "
        f"--batch-size 32 --learners float-l2 int8-l1 --out {config.out}"
    ).split()
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert "int8-l1-buffer20-seed0" in first
    results = json.loads((config.out / "results.json").read_text())
    assert len(results["runs"]) == 6
    assert [len(r["matrix"]) for r in results["runs"]] == [2, 2, 2, 2, 1, 1]
    with (config.out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["buffer"] for r in rows] == ["0", "0", "20", "20", "joint", "joint"]
    assert (config.out / "matrices.svg").read_text().count("<svg") == 1
    assert main(arguments) == 0
    assert "seed0:" not in capsys.readouterr().out
    assert main([*arguments, "--lr", "0.1"]) == 2
    assert "was made with lr 0.05, not 0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": 1}, "expected --tasks to be at least 2"),
        ({"stream": "domains", "tasks": 6}, "expected --tasks to be at most 5"),
        ({"buffers": (-1,)}, "expected --buffers to be sizes"),
        ({"replay": "latent"}, "expected --learners int8-l1 with --replay latent"),
        ({"model": "resnet9"}, "expected --model to be one of"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ContinualConfig(**options).validate()


def test_heat_maps_have_learners_down_and_buffers_across():
    records = [
        {"learner": learner, "buffer": buffer, "matrix": np.eye(2), "tasks": ["0-1", "2-3"]}
        for learner in LEARNERS
        for buffer in (0, 10, None)
    ]
    text = heat_maps(records)
    assert text.count('id="axes_') == 6
    found = re.search(r'viewBox="0 0 (\S+) (\S+)"', text)
    assert found
    assert float(found[1]) < float(found[2])


def test_equal_runs_are_equal(config, digits, tmp_path: Path):
    config = replace(config, epochs=1, images=64, buffers=(20,), learners=("int8-l1",), joint=False)
    first = compare(config, say=print)
    second = compare(replace(config, out=tmp_path / "other"), say=print)
    assert first[0]["matrix"] == second[0]["matrix"]
