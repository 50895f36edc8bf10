from __future__ import annotations

import pathlib
from typing import Any

import pytest

from l1bn.errors import UserError
from l1bn.recipes.gan.config import GanCompareConfig, GanConfig


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"width": 0}, "expected --width to be greater than 0, got 0"),
        ({"steps": 0}, "expected --steps to be greater than 0, got 0"),
        ({"n_critic": 0}, "expected --n-critic to be greater than 0, got 0"),
        ({"batch_size": 1}, "expected --batch-size to be greater than 1, got 1"),
        ({"betas": (0.5, 1.0)}, r"expected --betas to be in \[0, 1\), got \(0.5, 1.0\)"),
        ({"model": "wgan-gp", "penalty": -1.0}, "expected --penalty to be at least 0, got -1.0"),
        ({"penalty": 10.0}, "--penalty is for --model wgan-gp; dcgan has none"),
        ({"critic_norm": "layer"}, "--critic-norm is for --model wgan-gp; dcgan has none"),
        ({"distance_images": 1}, "expected --distance-images to be greater than 1, got 1"),
        ({"seed": -1}, r"expected --seed to be in 0 to 2\*\*32 - 1, got -1"),
    ],
)
def test_values_without_sense_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        GanConfig(**options).validate()


def test_each_model_has_the_values_of_its_paper() -> None:
    dcgan, wgan = GanConfig(model="dcgan").filled(), GanConfig(model="wgan-gp").filled()
    assert (dcgan.lr, dcgan.betas, dcgan.batch_size) == (2e-4, (0.5, 0.999), 128)
    assert (dcgan.n_critic, dcgan.penalty, dcgan.critic_norm) == (1, None, None)
    assert (wgan.lr, wgan.betas, wgan.batch_size) == (1e-4, (0.0, 0.9), 64)
    assert (wgan.n_critic, wgan.penalty, wgan.critic_norm) == (5, 10.0, "layer")
    assert GanConfig(lr=0.1, betas=(0.0, 0.1)).filled().settings().lr == 0.1


def test_a_configuration_survives_being_saved() -> None:
    config = GanConfig(
        betas=(0.1, 0.2), classifier=pathlib.Path("a/last.pt"), out=pathlib.Path("b")
    )
    assert GanConfig.from_saved(config.saved()) == config
    assert config.changes({**config.saved(), "lr": 3.0}) == "lr 3.0, not None"
    assert config.changes({**config.saved(), "out": "elsewhere", "progress": False}) == ""


def test_a_comparison_is_of_runs_that_differ_in_norm_and_seed_only() -> None:
    config = GanCompareConfig(model="wgan-gp", width=0.5, out=pathlib.Path("x"))
    l1, l2 = config.run("l1", 3), config.run("l2", 3)
    assert l1.changed_fields(l2.saved()) == ["norm"]
    assert (l1.seed, l1.width, l1.out) == (3, 0.5, pathlib.Path("x/runs/l1-seed3"))
    with pytest.raises(UserError, match="expected --seeds to be greater than 0, got 0"):
        GanCompareConfig(seeds=0).validate()
