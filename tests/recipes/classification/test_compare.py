from __future__ import annotations

import copy
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from l1bn.errors import UserError
from l1bn.recipes.classification import compare as module
from l1bn.recipes.classification.compare import compare
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.config import CompareConfig, TrainConfig
from l1bn.recipes.data import ImageSet
from l1bn.recipes.files.curves import read_rows
from l1bn.recipes.report import write_report


@pytest.fixture
def config(
    tmp_path: pathlib.Path, tiny: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CompareConfig]:
    monkeypatch.setattr(module, "load_recipe_data", lambda _: tiny)

    def make(**changes: Any) -> CompareConfig:
        values: dict[str, Any] = {
            "width": 0.25,
            "epochs": 2,
            "batch_size": 24,
            "seeds": 2,
            "rounds": 4,
            "tensorboard": False,
            "progress": False,
            "out": tmp_path / "out",
        }
        return CompareConfig(**{**values, **changes})

    return make


def no_training(*_: object, **__: object) -> None:
    pytest.fail("trained again")


def test_a_comparison_writes_everything_and_repeats_nothing(
    config: Callable[..., CompareConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    results = compare(config(), say=said.append)
    out = config().out
    assert [line[:26] for line in said] == [
        f"run {i + 1} of 4: {n}, seed {s}: test"[:26]
        for i, (s, n) in enumerate([(0, "l1"), (0, "l2"), (1, "l1"), (1, "l2")])
    ]
    assert json.loads((out / "results.json").read_text()) == results
    rows = read_rows(out / "curves.csv")
    assert [(r["norm"], r["seed"], r["epoch"]) for r in rows] == [
        (n, s, e) for s in "01" for n in ("l1", "l2") for e in "12"
    ]
    monkeypatch.setattr(module, "train", no_training)
    monkeypatch.setattr(module, "step_seconds", no_training)
    assert compare(config(), say=said.append) == results
    assert write_report(out) == out / "report.html"


def test_results_agree_with_the_runs(config: Callable[..., CompareConfig]) -> None:
    results = compare(config(), say=lambda _: None)
    for norm in ("l1", "l2"):
        runs = [r for r in results["runs"] if r["norm"] == norm]
        mean = sum(r["test_accuracy"] for r in runs) / 2
        assert results["summary"][norm]["test_accuracy"]["mean"] == pytest.approx(mean)
    step = results["step"]
    assert (step["batch_size"], step["rounds"]) == (24, 4)
    assert step["l1"]["q25"] <= step["l1"]["median"] <= step["l1"]["q75"]
    assert set(results["deviation_ratios"]) == {
        f"{n}-seed{s}" for n in ("l1", "l2") for s in (0, 1)
    }
    assert results["saved_bytes"]["l1"] > 0
    assert results["environment"]["threads"] >= 1
    means = {n: results["summary"][n]["test_accuracy"]["mean"] for n in ("l1", "l2")}
    assert results["difference"]["mean"] == pytest.approx(means["l1"] - means["l2"], abs=1e-12)


def test_both_norms_start_from_the_same_weights_and_see_the_same_batches(
    config: Callable[..., CompareConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[torch.Tensor]] = {"l1": [], "l2": []}
    first: dict[str, dict[str, torch.Tensor]] = {}
    original = Trainer.loss

    def loss(self: Trainer, images: torch.Tensor, labels: torch.Tensor, *network: Any) -> Any:
        if self.model.training:
            norm = self.config.norm
            seen[norm] += [images.clone(), labels.clone()]
            first.setdefault(norm, copy.deepcopy(self.model.state_dict()))
        return original(self, images, labels, *network)

    monkeypatch.setattr(Trainer, "loss", loss)
    monkeypatch.setattr(module, "step_seconds", lambda *_: {"l1": [1.0], "l2": [1.0]})
    compare(config(seeds=1, augment="crop+mirror"), say=lambda _: None)
    assert len(seen["l1"]) >= 2 * 2 * 3  # two epochs of three batches
    for mine, other in zip(seen["l1"], seen["l2"], strict=True):
        assert torch.equal(mine, other)
    assert first["l1"].keys() == first["l2"].keys()
    for name, value in first["l1"].items():
        assert torch.equal(value, first["l2"][name])


def test_more_seeds_add_runs_to_a_folder(
    config: Callable[..., CompareConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(config(seeds=1), say=lambda _: None)
    trained: list[str] = []
    original = module.train

    def noted(run: TrainConfig, *args: Any, **options: Any) -> Any:
        trained.append(run.out.name)
        return original(run, *args, **options)

    monkeypatch.setattr(module, "train", noted)
    results = compare(config(seeds=2), say=lambda _: None)
    assert trained == ["l1-seed1", "l2-seed1"]
    assert len(results["deviation_ratios"]) == 4


def test_remeasure_times_the_step_again(
    config: Callable[..., CompareConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(config(seeds=1), say=lambda _: None)
    monkeypatch.setattr(module, "train", no_training)
    times = {"l1": [1.0, 2.0, 3.0], "l2": [2.0, 4.0, 6.0]}
    monkeypatch.setattr(module, "step_seconds", lambda *_: times)
    step = compare(config(seeds=1, remeasure=True), say=lambda _: None)["step"]
    assert step["l1"] == {"q25": 1.5, "median": 2.0, "q75": 2.5}
    assert step["l2_over_l1"]["median"] == 2.0


def test_runs_of_another_recipe_are_refused_and_kept(config: Callable[..., CompareConfig]) -> None:
    compare(config(seeds=1), say=lambda _: None)
    out = config().out
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(
        UserError, match=r"l1-seed0 was made with lr 0\.1, not 0\.3; choose another"
    ):
        compare(config(seeds=1, lr=0.3), say=lambda _: None)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    (out / "runs" / "l1-seed0" / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json is damaged; remove the folder"):
        compare(config(seeds=1), say=lambda _: None)


@pytest.mark.parametrize("option", ["seeds", "rounds"])
def test_counts_must_be_positive(option: str, config: Callable[..., CompareConfig]) -> None:
    with pytest.raises(UserError, match=f"expected --{option} to be greater than 0, got 0"):
        compare(config(**{option: 0}))
