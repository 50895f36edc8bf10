"""The harness that makes the accuracy tables."""

from __future__ import annotations

import json
import os
import sys

import pytest

import benchmarks.accuracy.__main__ as accuracy
from benchmarks.accuracy.plans import LABELS, PLANS, Plan
from benchmarks.accuracy.tables import table
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.files.checkpoint import save_checkpoint

PLAN = Plan((), {"a": (), "b": ("--norm", "l2")})


def rows(**accuracies):
    return [
        {"arm": arm, "seed": seed, "test_accuracy": value, "train_loss": 0.5}
        for arm, values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def test_differences_are_those_of_shared_seeds():
    first, second = table(PLAN, rows(a=[0.90, 0.92, 0.50], b=[0.93, 0.93]))
    assert (first["n"], first["accuracy"]) == (3, 77.33)
    assert "difference" not in first
    assert (second["accuracy"], second["std"], second["difference"]) == (93.0, 0.0, 2.0)
    low, high = (float(v) for v in second["welch_95"].split(" to "))
    assert low < 0 < 4 < high  # t of one degree of freedom: 2 ± 12.71


def test_an_arm_is_compared_with_the_one_that_the_plan_names():
    plan = Plan((), {"a": (), "b": (), "c": ()}, against={"c": "b"})
    found = {r["arm"]: r for r in table(plan, rows(a=[0.1, 0.1], b=[0.5, 0.6], c=[0.6, 0.7]))}
    assert found["b"]["difference"] == 45.0
    assert found["c"]["difference"] == 10.0


@pytest.mark.parametrize("name", PLANS)
def test_plans_can_run(name, tmp_path):
    folders = set()
    for arm, folder, options in accuracy.seed_runs(PLANS[name], tmp_path, 1, ["--data", "digits"]):
        plain, variant = accuracy.without_variant(options)
        config = accuracy.tyro.cli(TrainConfig, args=plain)
        if config.weights is None:
            config.validate()
        assert config.seed == 1
        assert variant is None or variant in accuracy_variants()
        assert config.weights is None or config.weights.parent in folders
        folders.add(folder)
        assert folder.name == f"{arm}-seed1"


def accuracy_variants():
    from benchmarks.accuracy.norm_variants import VARIANTS

    return VARIANTS


def test_every_arm_has_a_label():
    for plan in (p for n, p in PLANS.items() if n not in ("sensitivity", "integer-transfer")):
        assert plan.arms.keys() <= LABELS.keys()


def test_a_run_that_was_made_otherwise_is_refused(tmp_path):
    config = TrainConfig(data="digits", norm="l2", seed=1)
    (tmp_path / "result.json").write_text(json.dumps({"config": config.saved()}))
    accuracy.check(tmp_path, ["--data", "digits", "--norm", "l2", "--seed", "1"])
    with pytest.raises(SystemExit, match="was made with norm l2, not l1"):
        accuracy.check(tmp_path, ["--data", "digits", "--norm", "l1", "--seed", "1"])


def test_a_run_from_other_weights_or_of_another_variant_is_refused(tmp_path):
    weights = tmp_path / "first.pt"
    weights.touch()
    config = TrainConfig(data="digits", weights=weights)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"config": config.saved()}))
    options = ["--data", "digits", "--weights", str(weights)]
    accuracy.check(folder, options)
    with pytest.raises(SystemExit, match="holds the variant None, not no-scale"):
        accuracy.check(folder, [*options, "--variant", "no-scale"])
    os.utime(weights, ns=(2**62, 2**62))
    with pytest.raises(SystemExit, match=r"is older than .*first\.pt"):
        accuracy.check(folder, options)


def test_an_unfinished_run_that_was_made_otherwise_is_refused_before_it_goes_on(tmp_path):
    config = TrainConfig(data="digits", norm="l2", out=tmp_path)
    rest: dict[str, object] = {"shape": {}, "model": {}, "optimizer": {}, "state": {}}
    save_checkpoint(tmp_path / "last.pt", {"config": config.saved(), **rest})
    accuracy.check(tmp_path, ["--data", "digits", "--norm", "l2"])
    with pytest.raises(SystemExit, match="was made with norm l2, not l1"):
        accuracy.check(tmp_path, ["--data", "digits", "--norm", "l1"])


def test_a_run_whose_first_weights_are_gone_is_refused(tmp_path):
    config = TrainConfig(data="digits", weights=tmp_path / "first.pt")
    (tmp_path / "result.json").write_text(json.dumps({"config": config.saved()}))
    with pytest.raises(SystemExit, match=r"first\.pt, which is not there any more"):
        accuracy.check(tmp_path, ["--data", "digits", "--weights", str(tmp_path / "first.pt")])


def test_ctrl_c_leaves_a_run_the_time_to_save(tmp_path):
    saved = tmp_path / "saved"
    child = (
        "import os, pathlib, signal, time\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(1)\n"  # subprocess.run would have killed it by now
        f"pathlib.Path({str(saved)!r}).touch()\n"
        "raise SystemExit(130)\n"
    )
    assert accuracy.to_its_end([sys.executable, "-c", child]) == 130
    assert saved.exists()


def test_a_plan_is_trained_collected_and_not_repeated(tmp_path, monkeypatch, capsys):
    shared = ("--model", "resnet8", "--width", "0.25", "--epochs", "1", "--images", "256")
    plan = Plan((*shared, "--no-tensorboard"), {"l1": ("--norm", "l1"), "l2": ("--norm", "l2")})
    monkeypatch.setitem(PLANS, "tiny", plan)
    monkeypatch.setattr(accuracy, "ROOT", tmp_path)
    out = tmp_path / "results" / "tiny"
    arguments = ["accuracy.py", "tiny", "--data", "digits", "--seeds", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    accuracy.main()
    content = json.loads((out / "results.json").read_text())
    assert content["command"].endswith("tiny --data DATA --out results/tiny --seeds 1")
    assert [(r["arm"], r["seed"], r["threads"]) for r in content["runs"]] == [
        ("l1", 0, 1),
        ("l2", 0, 1),
    ]
    assert (out / "curves.svg").stat().st_size > 1000
    finished = tmp_path / "runs" / "tiny" / "l1-seed0" / "result.json"
    before = finished.stat().st_mtime_ns
    accuracy.main()
    assert finished.stat().st_mtime_ns == before
