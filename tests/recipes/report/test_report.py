from __future__ import annotations

import base64
import copy
import io
import json
import pathlib
import re
import xml.etree.ElementTree as ET
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from l1bn.recipes.report import results_table, verdict, write_report
from l1bn.recipes.report.plots import (
    plot_accuracy,
    plot_band,
    plot_costs,
    plot_loss,
    plot_ratios,
)
from l1bn.recipes.report.verdict import accuracy_sentence, cost_sentences


def _over_seeds(mean: float, std: float) -> dict[str, dict[str, float]]:
    return {
        column: {"mean": mean, "std": std, "n": 2}
        for column in ("test_accuracy", "test_loss", "train_loss")
    }


def _quartiles(value: float) -> dict[str, float]:
    return {"q25": 0.9 * value, "median": value, "q75": 1.2 * value}


RESULTS: dict[str, Any] = {
    "config": {"model": "resnet8", "data": "digits", "epochs": 2, "label_column": None},
    "data": {
        "name": "a<b",
        "train": 1437,
        "test": 360,
        "image_shape": [1, 16, 16],
        "classes": ["a"],
    },
    "environment": {"cpu": "Abacus 3000", "backends": ["eager"], "command": "l1bn compare"},
    "parameters": 77754,
    "runs": [
        {
            "norm": norm,
            "seed": seed,
            "test_accuracy": 0.98 + 0.001 * seed,
            "test_loss": 0.1,
            "train_loss": 0.05,
            "seconds": 12.0,
            "images_per_second": 1000.0,
        }
        for seed in (0, 1)
        for norm in ("l1", "l2")
    ],
    "summary": {"l1": _over_seeds(0.9811, 0.001), "l2": _over_seeds(0.9822, 0.002)},
    "difference": {
        "mean": -0.0011,
        "paired": [-0.02, 0.0178],
        "welch": [-0.01, 0.0078],
        "detected": False,
    },
    "step": {
        "batch_size": 128,
        "rounds": 20,
        "l1": _quartiles(0.02),
        "l2": _quartiles(0.03),
        "l2_over_l1": _quartiles(1.5),
    },
    "saved_bytes": {"l1": 10 * 2**20, "l2": 16 * 2**20},
    "deviation_ratios": {
        f"{norm}-seed{seed}": {"stem": [1.1, 1.2, 1.3], "block": [1.25, 1.26]}
        for norm in ("l1", "l2")
        for seed in (0, 1)
    },
}


@pytest.fixture
def results() -> dict[str, Any]:
    return copy.deepcopy(RESULTS)


@pytest.fixture
def curves() -> pd.DataFrame:
    rows = [
        (norm, seed, epoch, 1.0 / epoch, 0.9 / epoch, 1 - 0.5 / epoch)
        for norm in ("l1", "l2")
        for seed in (0, 1)
        for epoch in (1, 2)
    ]
    columns = ["norm", "seed", "epoch", "train_loss", "test_loss", "test_accuracy"]
    return pd.DataFrame(rows, columns=columns)


def test_no_difference_is_said_plainly(results: dict[str, Any]) -> None:
    assert accuracy_sentence(results) == (
        "L1BN − BN = −0.11 points of test accuracy over 2 seeds; 95 % intervals −2.00 to +1.78 "
        "(paired), −1.00 to +0.78 (Welch). No difference beyond seed noise was found; with so many "
        "seeds only one larger than about 1.9 points would have shown."
    )


@pytest.mark.parametrize(("mean", "better"), [(0.02, "L1BN"), (-0.02, "BN")])
def test_a_difference_is_said_plainly(results: dict[str, Any], mean: float, better: str) -> None:
    interval = [mean - 0.01, mean + 0.01]
    results["difference"] = {"mean": mean, "paired": interval, "welch": interval, "detected": True}
    assert accuracy_sentence(results).endswith(f"Both exclude zero: {better} is better here.")


@pytest.mark.parametrize(("mean", "better"), [(0.02, "L1BN"), (-0.02, "BN")])
def test_what_only_pairs_show(results: dict[str, Any], mean: float, better: str) -> None:
    paired, welch = [mean - 0.01, mean + 0.01], [mean - 0.03, mean + 0.03]
    results["difference"] = {"mean": mean, "paired": paired, "welch": welch, "detected": False}
    assert f"seed by seed {better} is better here" in accuracy_sentence(results)


def test_one_seed_claims_nothing(results: dict[str, Any]) -> None:
    results["summary"]["l1"]["test_accuracy"]["n"] = 1
    results["difference"] = {"mean": 0.01, "paired": None, "welch": None, "detected": None}
    assert "one seed, which cannot tell a difference from seed noise" in accuracy_sentence(results)


def test_costs_are_said_whichever_way_they_point(results: dict[str, Any]) -> None:
    detail = "medians 20.0 and 30.0 ms; BN / L1BN by round {0:.2f}, quartiles {1:.2f} to {2:.2f}"
    for ratio, claim in (
        (1.5, "A training step is 1.50× as fast with L1BN"),
        (0.5, "A training step takes 2.00 times as long with L1BN"),
        (0.95, "A training step takes about as long with both"),
    ):
        results["step"]["l2_over_l1"] = _quartiles(ratio)
        numbers = detail.format(ratio, 0.9 * ratio, 1.2 * ratio)
        assert cost_sentences(results)[0] == f"{claim} ({numbers})."
    for l1, claim in (
        (10, "memory with L1BN is 0.62 of that with BN"),
        (32, "memory with L1BN is 2.00 of that with BN"),
        (16, "memory is the same with both"),
    ):
        results["saved_bytes"]["l1"] = l1 * 2**20
        sentence = cost_sentences(results)[1]
        assert sentence == f"Saved activation {claim} ({l1}.0 MiB and 16.0 MiB)."


def test_the_table_has_both_columns(results: dict[str, Any]) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(results_table(results))
    text = console.export_text()
    assert re.search(r"test accuracy, 2 seeds \[%\] .* 98\.11 ± 0\.10 .* 98\.22 ± 0\.20 ", text)
    assert re.search(r"step of 128 images \[ms\] .* 20\.0 \(18\.0 to 24\.0\) ", text)
    assert re.search(r"saved activation memory \[MiB\] .* 10\.0 .* 16\.0 ", text)


def _page(folder: pathlib.Path, results: dict[str, Any], curves: pd.DataFrame) -> str:
    (folder / "results.json").write_text(json.dumps(results))
    curves.to_csv(folder / "curves.csv", index=False)
    return write_report(folder).read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(
    tmp_path: pathlib.Path, results: dict[str, Any], curves: pd.DataFrame
) -> None:
    html = _page(tmp_path, results, curves)
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    loaded = [s for s in sources if not s.startswith("https://arxiv.org/")]
    assert len(loaded) == 4
    for source in loaded:
        kind, _, text = source.partition(",")
        assert kind == "data:image/svg+xml;base64"
        assert ET.fromstring(base64.b64decode(text)).tag.endswith("svg")
    assert "<script" not in html
    for sentence in verdict(results):
        assert sentence in html
    assert "Abacus 3000" in html
    assert "a&lt;b" in html
    assert "a<b" not in html


def test_rendering_twice_gives_the_same_page(
    tmp_path: pathlib.Path, results: dict[str, Any], curves: pd.DataFrame
) -> None:
    assert _page(tmp_path, results, curves) == _page(tmp_path, results, curves)


def test_plots_follow_the_numbers(results: dict[str, Any], curves: pd.DataFrame) -> None:
    other = copy.deepcopy(results)
    other["deviation_ratios"]["l1-seed0"]["stem"] = [1.4, 1.5, 1.6]
    assert plot_ratios(results) != plot_ratios(other)
    other["step"]["l1"] = _quartiles(0.025)
    assert plot_costs(results) != plot_costs(other)
    other["runs"][0]["test_accuracy"] = 0.5
    assert plot_accuracy(curves, results) != plot_accuracy(curves, other)
    changed = curves.assign(train_loss=2 * curves["train_loss"])
    assert plot_loss(curves) != plot_loss(changed)


def test_a_single_seed_draws_no_band_of_nan(results: dict[str, Any], curves: pd.DataFrame) -> None:
    one = curves[curves["seed"] == 0]
    assert "nan" not in plot_loss(one).lower()
    assert "nan" not in plot_accuracy(one, results).lower()


def test_a_band_reaches_from_the_lowest_to_the_highest_seed() -> None:
    """Not beyond: a deviation added to the mean passes 100 % accuracy."""
    axes = Figure().subplots()
    values = {"l1": [98.0, 99.0, 100.0], "l2": [90.0, 91.0, 98.0]}
    curves = pd.DataFrame(
        [
            {"norm": norm, "seed": seed, "epoch": epoch, "test_accuracy": value}
            for norm, found in values.items()
            for seed, value in enumerate(found)
            for epoch in (1, 2)
        ]
    )
    plot_band(axes, curves, "test_accuracy")
    bands = [band.get_datalim(axes.transData) for band in axes.collections]
    assert [(band.y0, band.y1) for band in bands] == [(98.0, 100.0), (90.0, 98.0)]
