"""GANs' distances measured again, and their figures, from a comparison that takes seconds."""

from __future__ import annotations

import csv
import shutil
import sys

import pytest
import torch

import benchmarks.gan.distance as gan_distance
import benchmarks.gan.figures as gan_figures
import benchmarks.gan.gradients as gan_gradients
from l1bn.recipes.classification.run import train
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.gan.compare import compare_gans
from l1bn.recipes.gan.config import GanCompareConfig


def test_a_comparison_is_measured_again_and_drawn(tmp_path, monkeypatch):
    shared = {"width": 0.25, "tensorboard": False, "progress": False}
    classifier = tmp_path / "classifier"
    train(TrainConfig(norm="l2", epochs=1, images=256, out=classifier, **shared))
    runs = tmp_path / "gan"
    options = {"steps": 2, "batch_size": 16, "distance_images": 100, "seeds": 1}
    found = compare_gans(
        GanCompareConfig(classifier=classifier / "last.pt", out=runs, **options, **shared),
        say=lambda _: None,
    )
    monkeypatch.setattr(sys, "argv", ["gan_distance.py", str(runs)])
    gan_distance.main()
    with (runs / "distances.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["norm"], r["seed"], r["step"]) for r in rows] == [("l1", "0", "2"), ("l2", "0", "2")]
    for row, run in zip(rows, found["runs"], strict=True):
        assert float(row["running"]) == pytest.approx(run["distance"], rel=0.3)
        assert row["running"] != row["batch"]

    monkeypatch.setattr(sys, "argv", ["gan_gradients.py", str(runs)])
    gan_gradients.main()
    with (runs / "gradients.csv").open(newline="") as file:
        l1, l2 = csv.DictReader(file)
    assert (l1["norm"], l2["norm"]) == ("l1", "l2")
    for row in (l1, l2):
        assert float(row["ratio_least"]) * (torch.pi / 2) ** 0.5 >= 1.0  # no distribution has less
        assert float(row["ratio_least"]) < float(row["ratio_greatest"])
        assert 0.5 < float(row["cosine_least"]) < 1.0

    results = tmp_path / "results"
    results.mkdir()
    for name in ("curves.csv", "results.json"):
        shutil.copy(runs / name, results)
    monkeypatch.setattr(sys, "argv", ["gan_figures.py", str(results), str(runs)])
    gan_figures.main()
    assert "<svg" in (results / "distances.svg").read_text()
    assert (results / "images.jpg").stat().st_size > 1000


def test_other_noise_is_drawn_each_time():
    def images(repeat):
        return torch.cat(list(gan_distance.generated(torch.nn.Identity(), 12, 700, repeat)))

    assert images(0).shape == (700, 12)
    assert torch.equal(images(0), images(0))
    assert not torch.equal(images(0), images(1))


def test_a_folder_without_runs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gan_distance.py", str(tmp_path)])
    for program in (gan_distance, gan_gradients):
        with pytest.raises(SystemExit, match=r"has no runs of l1bn gan-compare"):
            program.main()


def test_the_gradients_of_one_norm_are_the_same_twice(tmp_path, monkeypatch):
    options = {"steps": 1, "batch_size": 16, "seeds": 1, "width": 0.25, "out": tmp_path}
    compare_gans(GanCompareConfig(**options, tensorboard=False, progress=False), say=str)
    original = gan_gradients.gradients
    monkeypatch.setattr(gan_gradients, "gradients", lambda s, _, noise: original(s, "l1", noise))
    row = gan_gradients.measure(tmp_path / "runs" / "l2-seed0")
    assert row["cosine_least"] == pytest.approx(1.0, abs=1e-4)
    assert row["length_ratio"] == 1.0
