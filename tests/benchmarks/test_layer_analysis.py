"""What L1BN and BN see in each layer: against what is known of a few."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest
import torch

import benchmarks.accuracy.first_steps as first_steps
import benchmarks.accuracy.layer_analysis as layer_analysis
from benchmarks.accuracy.layer_analysis import GAUSSIAN, Analyst, gradient_cosines
from l1bn.recipes.classification.run import load_recipe_data, train
from l1bn.recipes.config import TrainConfig

OPTIONS = {"width": 0.5, "images": 256, "epochs": 1, "tensorboard": False, "progress": False}


@pytest.fixture
def analyst(tmp_path):
    config = TrainConfig(norm="l1", out=tmp_path / "run", **OPTIONS)
    return Analyst(config, load_recipe_data(config))


def test_the_gradients_of_bn_itself_point_in_the_same_direction(analyst, monkeypatch):
    between = gradient_cosines(analyst)
    assert 0.8 < between["all"] < 0.9999
    monkeypatch.setattr(layer_analysis, "build_model", with_l1(layer_analysis.build_model))
    same = gradient_cosines(analyst)
    assert same.keys() == between.keys()
    assert all(value == pytest.approx(1.0, abs=1e-5) for value in same.values())


def with_l1(build):
    return lambda model, _, spec: build(model, "l1", spec)


def test_an_analysis_has_a_row_for_every_epoch_layer_and_channel(analyst):
    analyst.measure()
    analyst.fit()
    assert analyst.measured == 2
    layers = {r["layer"] for r in analyst.ratios}
    assert {(r["epoch"], r["layer"]) for r in analyst.histograms} == {
        (epoch, layer) for epoch in (0, 1) for layer in layers
    }
    for layer in layers:
        shares = [r["share"] for r in analyst.histograms if (r["epoch"], r["layer"]) == (0, layer)]
        assert 0.98 < sum(shares) < 1.0001  # the rest lies beyond five deviations
    first, last = layer_analysis.summary(analyst)
    assert (first["epoch"], last["epoch"]) == (0, 1)
    assert 1.0 <= first["ratio_5%"] <= first["ratio_median"] <= first["ratio_95%"]


def test_a_finished_run_is_not_overwritten(tmp_path, monkeypatch):
    (tmp_path / "last.pt").touch()
    words = ["layer_analysis.py", "--data", "digits", "--run", str(tmp_path), "--out", "x"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="holds a run"):
        layer_analysis.main()


def test_calibration_keeps_what_a_pretrained_network_computes(tmp_path, monkeypatch):
    run = tmp_path / "bn-seed0"
    train(TrainConfig(norm="l2", out=run, threads=torch.get_num_threads(), **OPTIONS))
    words = ["first_steps.py", str(run), "--out", str(tmp_path / "out"), "--threads", "1"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(first_steps, "STEPS", 2)
    first_steps.main()
    with (tmp_path / "out" / "first_steps.csv").open(newline="") as file:
        bn, plain, calibrated = csv.DictReader(file)
    moved = [float(row["logits_moved"]) for row in (bn, plain, calibrated)]
    assert moved[0] == 0.0
    assert moved[2] < moved[1] / 2
    assert float(bn["ratio_5%"]) * GAUSSIAN >= 1.0  # no distribution has less
    assert np.isfinite(float(calibrated["loss_of_2"]))
