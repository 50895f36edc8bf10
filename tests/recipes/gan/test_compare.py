from __future__ import annotations

import copy
import io
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from l1bn.errors import UserError
from l1bn.recipes.classification.run import train
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet
from l1bn.recipes.files.curves import read_rows
from l1bn.recipes.gan import compare as module
from l1bn.recipes.gan.compare import compare_gans
from l1bn.recipes.gan.config import GanCompareConfig, GanConfig
from l1bn.recipes.gan.images import fit_size
from l1bn.recipes.gan.report import gan_table, gan_verdict, write_gan_report

Make = Callable[..., GanCompareConfig]


@pytest.fixture
def config(
    tmp_path: pathlib.Path,
    tiny: ImageSet,
    gan: Callable[..., GanConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> Make:
    monkeypatch.setattr(module, "load_gan_data", lambda _: fit_size(tiny))

    def make(**changes: Any) -> GanCompareConfig:
        own = {k: v for k, v in vars(gan()).items() if k not in ("norm", "seed")}
        return GanCompareConfig(**{**own, "seeds": 2, "out": tmp_path / "out", **changes})

    return make


@pytest.fixture
def classifier(
    recipe: Callable[..., TrainConfig], tiny: ImageSet, tmp_path: pathlib.Path
) -> pathlib.Path:
    train(recipe(epochs=1, out=tmp_path / "classifier"), tiny)
    return tmp_path / "classifier" / "last.pt"


def text_of(results: dict[str, Any]) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(gan_table(results))
    return console.export_text()


def test_a_comparison_writes_everything_and_repeats_nothing(
    config: Make, classifier: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    settings = config(classifier=classifier)
    results = compare_gans(settings, say=said.append)
    assert [line.split(":")[0] for line in said] == [f"run {i} of 4" for i in (1, 2, 3, 4)]
    assert all("not Inception-FID" in line for line in said)
    assert json.loads((settings.out / "results.json").read_text()) == results
    rows = read_rows(settings.out / "curves.csv")
    assert [(r["norm"], r["seed"], r["step"]) for r in rows] == [
        (n, s, e) for s in "01" for n in ("l1", "l2") for e in "36"
    ]
    last = {
        (r["norm"], r["seed"]): float(r["classifier_frechet"]) for r in rows if r["step"] == "6"
    }
    for norm in ("l1", "l2"):
        mean = (last[norm, "0"] + last[norm, "1"]) / 2
        assert results["summary"][norm]["distance"]["mean"] == pytest.approx(mean)
    assert results["difference"]["mean"] == pytest.approx(
        sum(last["l1", s] - last["l2", s] for s in "01") / 2
    )
    losses = [results["summary"][norm]["generator_loss"]["mean"] for norm in ("l1", "l2")]
    gap = results["loss_differences"]["generator_loss"]
    assert gap["mean"] == pytest.approx(losses[0] - losses[1])
    assert gap["welch"][0] < gap["mean"] < gap["welch"][1]
    monkeypatch.setattr(module, "train_gan", lambda *_, **__: pytest.fail("trained again"))
    assert compare_gans(settings, say=said.append) == results


def test_a_comparison_goes_further_but_never_back(config: Make) -> None:
    silent = {"say": lambda _: None}
    compare_gans(config(steps=3, seeds=1), **silent)
    results = compare_gans(config(steps=6, seeds=1), **silent)
    assert results["steps"] == 6
    rows = read_rows(config().out / "curves.csv")
    assert [(r["norm"], r["step"]) for r in rows] == [(n, e) for n in ("l1", "l2") for e in "36"]
    direct = compare_gans(config(steps=6, seeds=1, out=config().out / "direct"), **silent)
    assert results["summary"]["l1"]["generator_loss"] == direct["summary"]["l1"]["generator_loss"]
    with pytest.raises(UserError, match="l1-seed0 has 6 steps, more than 3; ask for as many"):
        compare_gans(config(steps=3, seeds=1), **silent)


def test_the_report_names_the_distance_for_what_it_is(
    config: Make, classifier: pathlib.Path
) -> None:
    settings = config(classifier=classifier, model="wgan-gp", n_critic=2)
    results = compare_gans(settings, say=lambda _: None)
    page = write_gan_report(settings.out).read_text()
    assert "This is not Inception-FID" in page
    assert results["distance"]["sha256"] in page
    assert page.count("data:image/jpeg;base64,") == 5  # real images, and a grid for each run
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "The norm is in the generator only" in page.replace("\n", " ")
    assert "not Inception-FID" in text_of(results)
    assert "±" in text_of(results)
    sentences = gan_verdict(results)
    assert "not Inception-FID" in sentences[0]
    assert "95 % intervals" in sentences[0]
    assert "a perfect generator would get less" in sentences[1]


def test_verdicts_point_the_right_way(config: Make, classifier: pathlib.Path) -> None:
    results = compare_gans(config(classifier=classifier), say=lambda _: None)
    pairs = "Only the paired one excludes zero: seed by seed {} is better here, by less than seeds "
    for mean, detected, paired, end in (
        (-0.5, True, [-0.6, -0.4], "Both exclude zero: L1BN is better here."),
        (0.5, True, [0.4, 0.6], "Both exclude zero: BN is better here."),
        (-0.5, False, [-1.5, 0.5], "No difference beyond seed noise was found."),
        (-0.5, False, [-0.6, -0.4], pairs.format("L1BN") + "differ among themselves."),
        (0.5, False, [0.4, 0.6], pairs.format("BN") + "differ among themselves."),
    ):
        changed = copy.deepcopy(results)
        changed["difference"] |= {"mean": mean, "detected": detected, "paired": paired}
        first = gan_verdict(changed)[0]
        assert first.endswith(end)
        assert f"L1BN − BN = {'−' if mean < 0 else '+'}0.500 in Fréchet" in first
    one = copy.deepcopy(results)
    one["summary"]["l1"]["distance"]["n"] = 1
    assert "one seed cannot tell" in gan_verdict(one)[0]


def test_without_a_classifier_nothing_is_claimed(config: Make) -> None:
    settings = config(seeds=1)
    results = compare_gans(settings, say=lambda _: None)
    assert gan_verdict(results) == [
        "No --classifier was given, so no distance was measured: losses cannot tell which images "
        "are better. Look at them."
    ]
    assert "Inception" not in text_of(results)
    assert "±" not in text_of(results)
    page = write_gan_report(settings.out).read_text()
    assert "Inception" not in page
    assert page.count("data:image/svg+xml;base64,") == 1


def test_runs_of_another_recipe_are_refused_and_kept(config: Make) -> None:
    settings = config(seeds=1, steps=2)
    compare_gans(settings, say=lambda _: None)
    before = {p: p.read_bytes() for p in settings.out.rglob("*") if p.is_file()}
    with pytest.raises(
        UserError, match=r"l1-seed0 was made with lr 0\.0002, not 0\.3; choose another folder"
    ):
        compare_gans(config(seeds=1, steps=2, lr=0.3), say=lambda _: None)
    assert {p: p.read_bytes() for p in settings.out.rglob("*") if p.is_file()} == before
    (settings.out / "runs" / "l1-seed0" / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json is damaged; remove the folder"):
        compare_gans(settings, say=lambda _: None)


def test_distances_by_different_classifiers_are_not_mixed(
    config: Make, classifier: pathlib.Path
) -> None:
    settings = config(seeds=1, steps=2, classifier=classifier)
    compare_gans(settings, say=lambda _: None)
    path = settings.out / "runs" / "l2-seed0" / "result.json"
    result = json.loads(path.read_text())
    result["distance"]["sha256"] = "0" * 64
    path.write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"measured with different contents of .*last\.pt"):
        compare_gans(settings, say=lambda _: None)
