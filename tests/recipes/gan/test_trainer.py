from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from l1bn.errors import UserError
from l1bn.recipes.data import ImageSet, Split
from l1bn.recipes.files.curves import read_rows
from l1bn.recipes.gan import trainer as module
from l1bn.recipes.gan.adversaries import LOSS_COLUMNS, Adversaries
from l1bn.recipes.gan.config import GanConfig
from l1bn.recipes.gan.distance import FrechetDistance
from l1bn.recipes.gan.images import fit_size
from l1bn.recipes.gan.trainer import GanTrainer, train_gan
from l1bn.recipes.machine.interrupt import Interrupted, StopRequest

Make = Callable[..., GanConfig]


def curve(folder: pathlib.Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the rows of both files, without the times."""
    samples = [
        {k: v for k, v in r.items() if k != "seconds"} for r in read_rows(folder / "samples.csv")
    ]
    return samples, read_rows(folder / "steps.csv")


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ask the trainer to stop in one of its steps, as Ctrl-C would."""
    request, original, taken = StopRequest(), Adversaries.step, []

    def step(self: Adversaries, number: int) -> list[float]:
        taken.append(number)
        request.made = len(taken) == steps
        return original(self, number)

    class Deferred:
        def __enter__(self) -> StopRequest:
            return request

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(Adversaries, "step", step)
    monkeypatch.setattr(module, "deferred_interrupt", Deferred)


def pixels(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


class Halves(nn.Module):
    """Mean brightness of the left and of the right half: what tells the tiny classes apart."""

    num_features = 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([h.double().mean((1, 2, 3)) for h in images.chunk(2, dim=3)], 1)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("model", ["dcgan", "wgan-gp"])
def test_a_run_leaves_its_files(model: str, norm: str, gan: Make, tiny: ImageSet) -> None:
    config = gan(model=model, norm=norm, tensorboard=True)
    trainer = train_gan(config, tiny)
    result = json.loads((config.out / "result.json").read_text())
    samples, steps = curve(config.out)
    assert [int(r["step"]) for r in steps] == [1, 2, 3, 4, 5, 6]
    assert [int(r["step"]) for r in samples] == [3, 6]
    for name in LOSS_COLUMNS:
        mean = sum(float(r[name]) for r in steps[3:]) / 3
        assert float(samples[1][name]) == result[name] == pytest.approx(mean)
    assert (float(steps[0]["penalty"]) > 0) == (model == "wgan-gp")
    assert GanConfig.from_saved(result["config"]) == config.filled()
    assert "distance" not in result
    assert list((config.out / "tensorboard").iterdir())
    assert sorted(p.name for p in (config.out / "images").iterdir()) == [
        "real.png",
        "step-000003.png",
        "step-000006.png",
    ]
    first, last = (pixels(config.out / "images" / f"step-00000{n}.png") for n in (3, 6))
    assert first.shape == last.shape == (8 * 66 + 2, 8 * 66 + 2, 3)
    assert last[2:66, 2:66].std() > 0
    assert (first != last).any()
    assert trainer.summary().startswith("losses of critic and generator ")


def test_a_line_is_said_with_each_grid(gan: Make, tiny: ImageSet) -> None:
    said: list[str] = []
    config = gan(model="wgan-gp")
    train_gan(config, tiny, say=said.append)
    pattern = (
        r"step (\d)/6  critic loss (-?\d+\.\d{3})  generator loss -?\d+\.\d{3}  "
        r"score of real -?\d+\.\d\d, of generated -?\d+\.\d\d  [1-9]\d* images/s  "
        r"0:00:\d\d left"
    )
    found = [re.fullmatch(pattern, line) for line in said]
    samples, _ = curve(config.out)
    assert [m and m[1] for m in found] == ["3", "6"]
    assert [m and m[2] for m in found] == [f"{float(r['critic_loss']):.3f}" for r in samples]
    assert said[-1].endswith("0:00:00 left")


def test_the_networks_learn(gan: Make, tiny: ImageSet) -> None:
    """The discriminator tells real images from generated ones, which come nearer to them."""
    config = gan(steps=60, lr=2e-3, width=0.25, sample_every=60)
    data = fit_size(tiny)
    distance = FrechetDistance(Halves(), data.train.images, torch.device("cpu"))
    noise = torch.randn(200, 8)
    before = distance([GanTrainer(config, data).adversaries.sample(noise)])
    trainer = train_gan(config, tiny)
    row = curve(config.out)[0][-1]
    assert float(row["real_score"]) > float(row["fake_score"])
    assert distance([trainer.adversaries.sample(noise)]) < 0.5 * before


def test_both_norms_see_the_same_weights_noise_and_batches(gan: Make, tiny: ImageSet) -> None:
    data = fit_size(tiny)
    trainers = [GanTrainer(gan(norm=norm), data) for norm in ("l1", "l2")]
    for name in ("generator", "critic"):
        l1, l2 = (getattr(t.adversaries, name).state_dict() for t in trainers)
        assert all(torch.equal(l1[k], l2[k]) for k in l2)
    seen: list[torch.Tensor] = []
    for trainer in trainers:
        for network in (trainer.adversaries.generator, trainer.adversaries.critic):
            network.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
        trainer.adversaries.step(0)
    half = len(seen) // 2
    noise, real = seen[0], seen[1]
    assert torch.equal(seen[half], noise)
    assert torch.equal(seen[half + 1], real)
    assert not torch.equal(seen[half + 2], seen[2])  # the images that the generators made


def test_the_critic_takes_more_steps_than_the_generator(gan: Make, tiny: ImageSet) -> None:
    trainer = GanTrainer(gan(model="wgan-gp", n_critic=3), fit_size(tiny))
    pair = trainer.adversaries
    calls: list[bool] = []
    pair.generator.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    pair.step(0)
    assert calls == [False, False, False, True]
    assert all(p.requires_grad for p in pair.critic.parameters())
    epochs = GanTrainer(gan(model="wgan-gp", n_critic=5, steps=None, epochs=2), fit_size(tiny))
    assert epochs.total_steps == 3  # 2 epochs of 6 batches, 5 for each step


def test_no_step_repeats_noise_or_images(gan: Make, tiny: ImageSet) -> None:
    pair = GanTrainer(gan(model="wgan-gp", n_critic=2), fit_size(tiny)).adversaries
    noise: list[torch.Tensor] = []
    images: list[torch.Tensor] = []
    pair.generator.register_forward_pre_hook(lambda _, args: noise.append(args[0]))
    pair.critic.register_forward_pre_hook(lambda _, args: images.append(args[0].detach()))
    for number in range(3):
        pair.step(number)
    assert len({tuple(n.flatten().tolist()) for n in noise}) == len(noise) == 3 * 3
    real = [*images[0::7], *images[3::7]]  # real, generated, between; twice; then generated
    assert len({tuple(image.flatten().tolist()) for batch in real for image in batch}) == 72


def test_equal_seeds_give_equal_curves(gan: Make, tiny: ImageSet) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_gan(gan(out=gan().out / name, seed=seed), tiny)
    a, b, c = (curve(gan().out / n) for n in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("stops", [[1], [3], [6], [2, 1, 2]])
@pytest.mark.parametrize(("model", "norm"), [("dcgan", "l1"), ("dcgan", "l2"), ("wgan-gp", "l1")])
def test_an_interrupted_run_continues_bit_for_bit(
    model: str,
    norm: str,
    stops: list[int],
    gan: Make,
    tiny: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A grid is due after 3 and 6 steps: a stop there comes before it."""
    whole = gan(model=model, norm=norm, n_critic=1, out=gan().out / "whole")
    expected = train_gan(whole, tiny)
    parts = gan(model=model, norm=norm, n_critic=1, out=gan().out / "parts")
    for number, steps in enumerate(stops):
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            where = rf"stopped at step {sum(stops[: number + 1])} of 6; saved"
            with pytest.raises(Interrupted, match=where):
                train_gan(parts, tiny, resume=number > 0)
        assert not (parts.out / "result.json").exists()
    got = train_gan(parts, tiny, resume=True)
    assert curve(parts.out) == curve(whole.out)
    for name in ("generator", "critic"):
        state = getattr(got.adversaries, name).state_dict()
        for key, value in getattr(expected.adversaries, name).state_dict().items():
            assert torch.equal(state[key], value), (name, key)
    for image in (whole.out / "images").iterdir():
        assert (parts.out / "images" / image.name).read_bytes() == image.read_bytes()


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"steps": 3}, {"steps": 6}),
        ({"steps": None, "epochs": 1}, {"steps": None, "epochs": 2}),
        ({"steps": 4}, {"steps": 6}),  # a grid at step 4 is due only because the run ends there
        ({"steps": 2, "sample_every": None}, {"steps": 5, "sample_every": None}),
    ],
)
def test_a_finished_run_goes_further_as_if_it_had_been_longer(
    short: dict[str, Any], long: dict[str, Any], gan: Make, tiny: ImageSet
) -> None:
    whole = gan(**long, out=gan().out / "whole")
    expected = train_gan(whole, tiny)
    parts = gan().out / "parts"
    train_gan(gan(**short, out=parts), tiny)
    got = train_gan(gan(**long, out=parts), tiny, resume=True)
    assert curve(parts) == curve(whole.out)
    for key, value in expected.adversaries.generator.state_dict().items():
        assert torch.equal(got.adversaries.generator.state_dict()[key], value), key
    results = [json.loads((out / "result.json").read_text()) for out in (parts, whole.out)]
    assert results[0]["steps"] == results[1]["steps"] == expected.total_steps
    assert results[0]["generator_loss"] == results[1]["generator_loss"]


def test_a_run_that_goes_further_has_no_result_until_it_is_there(
    gan: Make, tiny: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_gan(gan(steps=3), tiny)
    result = gan().out / "result.json"
    with pytest.raises(UserError, match="has 3 steps already; expected --steps to be at least"):
        train_gan(gan(steps=2), tiny, resume=True)
    assert result.exists()
    stop_after(monkeypatch, 1)
    with pytest.raises(Interrupted, match="stopped at step 4 of 6"):
        train_gan(gan(steps=6), tiny, resume=True)
    assert not result.exists()


def test_nothing_is_overwritten_by_mistake(gan: Make, tiny: ImageSet) -> None:
    config = gan(steps=2)
    train_gan(config, tiny)
    before = {p: p.read_bytes() for p in config.out.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="already holds a run; continue it with --resume"):
        train_gan(config, tiny)
    with pytest.raises(UserError, match=r"made with lr 0\.0002, not 0\.1; resume without changing"):
        train_gan(gan(steps=2, lr=0.1), tiny, resume=True)
    other = ImageSet(
        "tiny",
        *[Split(s.images.repeat(1, 3, 1, 1), s.labels) for s in (tiny.train, tiny.test)],
        tiny.classes,
    )
    with pytest.raises(UserError, match=r"images of \{'channels': 1, .* digits has .*: 3"):
        train_gan(config, other, resume=True)
    assert {p: p.read_bytes() for p in config.out.rglob("*") if p.is_file()} == before
    with pytest.raises(UserError, match=r"no checkpoint at .*nothing/last\.pt"):
        train_gan(gan(out=config.out / "nothing"), tiny, resume=True)


def test_divergence_is_reported(gan: Make, tiny: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    values: list[Any] = [float("nan"), 1.0, 0.0, 0.0, 0.0]
    monkeypatch.setattr(Adversaries, "step", lambda *_: values)
    with pytest.raises(UserError, match=r"losses are nan and 1\.0 at step 1: training diverged; "):
        train_gan(gan(), tiny)


def test_images_do_not_depend_on_each_other(gan: Make, tiny: ImageSet) -> None:
    trainer = train_gan(gan(), tiny)
    noise = torch.randn(4, 8)
    alone = torch.cat([trainer.adversaries.sample(n[None]) for n in noise])
    assert (trainer.adversaries.sample(noise).int() - alone.int()).abs().max() <= 1
    before = trainer.adversaries.generator.state_dict()
    copy = {k: v.clone() for k, v in before.items()}
    trainer.adversaries.sample(noise)
    assert all(torch.equal(copy[k], v) for k, v in before.items())
