from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from judge import apart
from l1bn.errors import UserError
from l1bn.recipes.classification.run import train
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet, Split
from l1bn.recipes.files.checkpoint import load_checkpoint, save_checkpoint
from l1bn.recipes.files.curves import read_rows
from l1bn.recipes.gan.config import GanConfig
from l1bn.recipes.gan.distance import DISTANCE_NAME, FrechetDistance, load_features
from l1bn.recipes.gan.images import fit_size
from l1bn.recipes.gan.trainer import train_gan

CPU = torch.device("cpu")


class Flat(nn.Module):
    """Pixels as features."""

    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).double()


def images(count: int, scale: float = 1.0) -> torch.Tensor:
    mixed = torch.randn(count, 12) @ torch.randn(12, 12) * scale * 20 + 100
    return mixed.clamp(0, 255).to(torch.uint8).view(count, 3, 2, 2)


def by_scipy(first: torch.Tensor, second: torch.Tensor) -> float:
    a, b = (v.flatten(1).double().numpy() for v in (first, second))
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    return float(shift + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root))


def test_the_distance_is_that_of_scipy() -> None:
    real, first, second = images(700), images(300), images(150, 0.5)
    distance = FrechetDistance(Flat(), real, CPU)
    for generated in (first, second, first):  # the real images stay, the generated ones do not
        assert distance(generated.split(64)) == pytest.approx(by_scipy(real, generated), rel=1e-9)


def test_the_distance_of_a_set_to_itself_is_zero() -> None:
    real = images(400)
    assert 0 <= FrechetDistance(Flat(), real, CPU)([real[200:], real[:200]]) < 1e-6


@pytest.fixture
def classifier(
    recipe: Callable[..., TrainConfig], tiny: ImageSet, tmp_path: pathlib.Path
) -> Callable[..., pathlib.Path]:
    def make(**changes: object) -> pathlib.Path:
        config = recipe(epochs=1, out=tmp_path / "classifier", **changes)
        train(config, tiny)
        return config.out / "last.pt"

    return make


@pytest.mark.parametrize(("model", "norm"), [("resnet8", "l1"), ("vgg7", "l2")])
def test_features_are_what_the_last_layer_gets(
    model: str, norm: str, classifier: Callable[..., pathlib.Path], tiny: ImageSet
) -> None:
    path = classifier(model=model, norm=norm, width=0.125)
    features = load_features(path, tiny, CPU)
    got = features(tiny.test.images)
    assert got.shape == (24, features.num_features)
    assert got.dtype == torch.float64
    config = TrainConfig.from_saved(load_checkpoint(path)["config"])
    whole = Trainer(config, tiny)
    whole.model.load_state_dict(load_checkpoint(path)["model"])
    whole.model.eval()
    head = [m for m in whole.model.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        torch.testing.assert_close(
            head(got.float()), whole.model(whole.preprocess(tiny.test.images))
        )


def test_inputs_are_scaled_as_in_training_whatever_the_size(
    classifier: Callable[..., pathlib.Path], tiny: ImageSet
) -> None:
    path = classifier()
    expected = load_features(path, tiny, CPU)(tiny.test.images)
    enlarged = fit_size(tiny)
    moments = (tiny.moments()[1], enlarged.moments()[1])
    assert apart(*moments) > 1e-3  # enlarging smooths
    assert torch.equal(load_features(path, enlarged, CPU)(tiny.test.images), expected)


def test_a_run_records_what_it_measured_with(
    classifier: Callable[..., pathlib.Path], gan: Callable[..., GanConfig], tiny: ImageSet
) -> None:
    path = classifier()
    config = gan(classifier=path, distance_images=20, tensorboard=True)
    trainer = train_gan(config, tiny)
    rows = read_rows(config.out / "samples.csv")
    found = json.loads((config.out / "result.json").read_text())["distance"]
    assert (
        found["name"]
        == DISTANCE_NAME
        == ("Fréchet distance on classifier features (not Inception-FID)")
    )
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found["images"], found["classifier"], found["features"]) == (20, str(path), 16)
    assert found["value"] == float(rows[-1]["classifier_frechet"])
    assert 0 < found["distance_of_training_images"] < found["value"]
    assert trainer.summary() == f"{DISTANCE_NAME}: {found['value']:.3f}"


def test_the_distance_grows_with_noise(
    classifier: Callable[..., pathlib.Path], tiny: ImageSet
) -> None:
    """Features of images at another size are those of the size the classifier knows."""
    data = fit_size(tiny)
    features = load_features(classifier(), data, CPU)
    distance = FrechetDistance(features, data.test.images, CPU)
    training = data.train.images
    noisy = (training.int() + torch.randint(-60, 60, training.shape)).clamp(0, 255)
    uniform = torch.randint(0, 256, training.shape, dtype=torch.uint8)
    values = [distance([v]) for v in (training, noisy.to(torch.uint8), uniform)]
    assert values == sorted(values)
    assert values[0] < 0.5 * values[2]


def test_what_does_not_fit_is_refused(
    classifier: Callable[..., pathlib.Path],
    gan: Callable[..., GanConfig],
    tiny: ImageSet,
    tmp_path: pathlib.Path,
) -> None:
    path = classifier()
    colour = ImageSet(
        "colour",
        *[Split(s.images.repeat(1, 3, 1, 1), s.labels) for s in (tiny.train, tiny.test)],
        tiny.classes,
    )
    with pytest.raises(
        UserError,
        match=r"--classifier to be trained on colour, with 3 channels and 3 classes, but "
        r".*last\.pt was trained on digits, with 1 and 3",
    ):
        load_features(path, colour, CPU)
    with pytest.raises(UserError, match=r"last\.pt is no checkpoint of `l1bn gan`"):
        train_gan(gan(out=path.parent), tiny, resume=True)
    run = train_gan(gan(steps=1), tiny).config.out
    with pytest.raises(UserError, match=r"last\.pt is no checkpoint of `l1bn train`"):
        load_features(run / "last.pt", tiny, CPU)
    content = load_checkpoint(path)
    content["config"]["precision"] = "int8"
    save_checkpoint(tmp_path / "int8.pt", {k: v for k, v in content.items() if k != "format"})
    with pytest.raises(UserError, match=r"floating point, but .* with --precision int8"):
        load_features(tmp_path / "int8.pt", tiny, CPU)
