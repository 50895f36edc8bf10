from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from judge import assert_close
from l1bn.errors import UserError
from l1bn.recipes.classification import trainer as classification
from l1bn.recipes.classification.run import train
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet, Split
from l1bn.recipes.files.curves import EPOCH_COLUMNS, read_rows
from l1bn.recipes.machine.device import pick_device
from l1bn.recipes.machine.interrupt import Interrupted, StopRequest

Recipe = Callable[..., TrainConfig]


def curve(folder: pathlib.Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return the rows of both files, without the times."""
    epochs = [
        {k: v for k, v in r.items() if k != "seconds"} for r in read_rows(folder / "epochs.csv")
    ]
    return epochs, read_rows(folder / "steps.csv")


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ask every trainer to stop after so many of its steps, as Ctrl-C would."""
    request = StopRequest()
    original = Trainer.step

    def step(self: Trainer, *batch: torch.Tensor) -> Any:
        stop_after.left -= 1  # type: ignore[attr-defined]
        request.made = stop_after.left == 0  # type: ignore[attr-defined]
        return original(self, *batch)

    class Deferred:
        def __enter__(self) -> StopRequest:
            request.made = False
            return request

        def __exit__(self, *_: object) -> None:
            pass

    stop_after.left = steps  # type: ignore[attr-defined]
    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(classification, "deferred_interrupt", Deferred)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_run_learns_and_leaves_its_files(norm: str, recipe: Recipe, tiny: ImageSet) -> None:
    config = recipe(norm=norm, epochs=10, tensorboard=True)
    train(config, tiny)
    result = json.loads((config.out / "result.json").read_text())
    epochs, steps = curve(config.out)
    assert result["test_accuracy"] > 0.9
    assert result["test_accuracy"] == float(epochs[-1]["test_accuracy"])
    assert float(epochs[-1]["train_loss"]) < 0.5 * float(epochs[0]["train_loss"])
    assert [int(r["epoch"]) for r in epochs] == list(range(1, 11))
    assert [int(r["step"]) for r in steps] == list(range(1, 31))
    assert list(read_rows(config.out / "epochs.csv")[0]) == list(EPOCH_COLUMNS)
    assert list((config.out / "tensorboard").iterdir())
    assert TrainConfig.from_saved(result["config"]) == config


def test_equal_seeds_give_equal_curves(recipe: Recipe, tiny: ImageSet) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(recipe(out=recipe().out / name, seed=seed), tiny)
    a, b, c = (curve(recipe().out / n) for n in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("stops", [[1], [3], [4], [2, 1, 3], [9]])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_an_interrupted_run_continues_bit_for_bit(
    norm: str, stops: list[int], recipe: Recipe, tiny: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps make an epoch: 3 and 9 stop at the end of one, before its evaluation."""
    whole = recipe(norm=norm, out=recipe().out / "whole")
    expected = train(whole, tiny).model.state_dict()
    parts = recipe(norm=norm, out=recipe().out / "parts")
    for number, steps in enumerate(stops):
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            with pytest.raises(Interrupted, match=r"stopped at epoch \d, step \d of 3; saved"):
                train(parts, tiny, resume=number > 0)
        assert not (parts.out / "result.json").exists()
    got = train(parts, tiny, resume=True).model.state_dict()
    assert curve(parts.out) == curve(whole.out)
    for key, value in expected.items():
        assert torch.equal(got[key], value), key


def test_rows_of_a_lost_continuation_are_removed(recipe: Recipe, tiny: ImageSet) -> None:
    whole = recipe(out=recipe().out / "whole")
    train(whole, tiny)
    config = recipe()
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Interrupted):
            train(config, tiny)
    saved = (config.out / "last.pt").read_bytes()
    train(config, tiny, resume=True)
    (config.out / "last.pt").write_bytes(saved)  # as if the machine had died before the next one
    (config.out / "result.json").unlink()
    train(config, tiny, resume=True)
    assert curve(config.out) == curve(whole.out)


def test_nothing_is_overwritten_by_mistake(recipe: Recipe, tiny: ImageSet) -> None:
    config = recipe(epochs=1)
    train(config, tiny)
    before = {p.name: p.read_bytes() for p in config.out.iterdir()}
    with pytest.raises(UserError, match=r"already holds a run; continue it with --resume"):
        train(config, tiny)
    with pytest.raises(UserError, match=r"made with lr 0\.1, not 0\.2; resume without changing it"):
        train(recipe(epochs=1, lr=0.2), tiny, resume=True)
    other = ImageSet(
        "tiny",
        *[Split(s.images.repeat(1, 3, 1, 1), s.labels) for s in (tiny.train, tiny.test)],
        tiny.classes,
    )
    with pytest.raises(UserError, match=r"made with images .*'in_channels': 1.* but digits has"):
        train(config, other, resume=True)
    assert {p.name: p.read_bytes() for p in config.out.iterdir()} == before


def test_what_does_not_change_the_curve_may_change(recipe: Recipe, tiny: ImageSet) -> None:
    train(recipe(epochs=1), tiny)
    assert (
        recipe(epochs=1, log_every=7, progress=True).changed_fields(recipe(epochs=1).saved()) == []
    )
    assert recipe(epochs=2, norm="l2").changed_fields(recipe(epochs=1).saved()) == [
        "epochs",
        "norm",
    ]
    assert recipe().changed_fields({"lr": 0.3, "epochs": 3, "width": 0.25, "batch_size": 24}) == [
        "lr"
    ]


def test_weights_of_one_norm_start_a_run_with_the_other(recipe: Recipe, tiny: ImageSet) -> None:
    first = train(recipe(norm="l2", epochs=10, out=recipe().out / "l2"), tiny)
    expected = first.evaluate(tiny.test)
    path = recipe().out / "l2" / "last.pt"
    config = recipe(norm="l1", epochs=1, lr=1e-9, weights=path, out=recipe().out / "l1")
    second = train(config, tiny)
    for key, value in first.model.state_dict().items():
        if "running" not in key and "num_batches" not in key:
            assert_close(second.model.state_dict()[key], value, "order")
    assert second.evaluate(tiny.test)[1] == pytest.approx(expected[1], abs=0.2)
    with pytest.raises(UserError, match=r"do not fit: they are of resnet8 with width 0\.25"):
        train(recipe(width=0.5, weights=path, out=recipe().out / "wide"), tiny)


def test_weight_decay_spares_norms_and_biases_unless_asked(recipe: Recipe, tiny: ImageSet) -> None:
    for decay_norm, expected in ((False, {0.0, 0.01}), (True, {0.01})):
        trainer = Trainer(recipe(weight_decay=0.01, decay_norm=decay_norm), tiny)
        groups = trainer.optimizer.param_groups
        assert {g["weight_decay"] for g in groups} == expected
        counted = sum(p.numel() for g in groups for p in g["params"])
        assert counted == sum(p.numel() for p in trainer.model.parameters())
        spared = [p for g in groups if g["weight_decay"] == 0 for p in g["params"]]
        assert all(p.dim() == 1 for p in spared)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_the_learning_rate_follows_the_schedule(
    schedule: str, recipe: Recipe, tiny: ImageSet
) -> None:
    config = recipe(schedule=schedule, lr=0.08)
    train(config, tiny)
    rates = [float(r["lr"]) for r in curve(config.out)[1]]
    assert len(rates) == 9
    assert max(rates) <= 0.08
    assert rates[-1] < 0.2 * max(rates)
    assert (rates[0] == 0.08) == (schedule == "cosine")


def test_bf16_and_plain_layout_train(recipe: Recipe, tiny: ImageSet) -> None:
    config = recipe(epochs=10, precision="bf16", channels_last=False)
    trainer = train(config, tiny)
    assert trainer.evaluate(tiny.test)[1] > 0.9
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    outputs: list[torch.dtype] = []
    trainer.model.get_submodule("blocks.0").register_forward_hook(
        lambda *a: outputs.append(a[2].dtype)
    )
    trainer.evaluate(tiny.test)
    assert set(outputs) == {torch.bfloat16}


def test_label_smoothing_is_for_training_only(recipe: Recipe, tiny: ImageSet) -> None:
    plain, smooth = (Trainer(recipe(label_smoothing=s), tiny) for s in (0.0, 0.3))
    batch = tiny.test.images, tiny.test.labels
    assert plain.evaluate(tiny.test) == smooth.evaluate(tiny.test)
    for trainer in (plain, smooth):
        trainer.model.train()
    assert plain.loss(*batch)[0] != smooth.loss(*batch)[0]


def test_augmentation_of_the_recipe_reaches_the_plan(recipe: Recipe, tiny: ImageSet) -> None:
    mirrored = ImageSet("photos", tiny.train, tiny.test, tiny.classes, mirror=True)

    def plan(augment: str, data: ImageSet) -> tuple[int, bool]:
        drawn = Trainer(recipe(augment=augment), data).plan(0)
        return drawn.padding, bool(drawn.mirror.any())

    assert plan("auto", tiny) == plan("crop", mirrored) == (1, False)
    assert plan("auto", mirrored) == plan("crop+mirror", tiny) == (1, True)
    assert plan("none", mirrored) == (0, False)


def test_sides_in_turn_and_edges_of_the_recipe_reach_the_plan(
    recipe: Recipe, tiny: ImageSet
) -> None:
    trainer = Trainer(recipe(augment="crop+alternate", crop_edges="reflect"), tiny)
    sides = []
    for plan in (trainer.plan(0), trainer.plan(1)):
        assert plan.edges == "reflect"
        sides.append(plan.mirror[plan.order.argsort()])
    assert torch.equal(sides[0], ~sides[1])
    assert Trainer(recipe(), tiny).plan(0).edges == "zeros"


def test_divergence_is_said(recipe: Recipe, tiny: ImageSet) -> None:
    with pytest.raises(
        UserError, match=r"the loss is nan at epoch 1, step \d.* lower --lr than 1e"
    ):
        train(recipe(lr=1e30, schedule="cosine", norm="l2"), tiny)


def test_an_unknown_device_is_a_user_error() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match='no device "abacus" here'):
        pick_device("abacus")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"epochs": 0}, "expected --epochs to be greater than 0, got 0"),
        ({"batch_size": -1}, "expected --batch-size to be greater than 0, got -1"),
        ({"lr": 0.0}, "expected --lr to be greater than 0"),
        ({"momentum": 1.0}, r"expected --momentum to be in \[0, 1\), got 1.0"),
        ({"label_smoothing": 1.0}, "expected --label-smoothing"),
        ({"weight_decay": -0.1}, "expected --weight-decay to be at least 0"),
        ({"momentum": 0.0}, "--nesterov needs --momentum greater than 0"),
        ({"threads": 0}, "expected --threads to be greater than 0"),
        ({"model": "lenet"}, "expected --model to be one of resnet8"),
    ],
)
def test_senseless_options_are_refused(change: dict[str, Any], text: str, recipe: Recipe) -> None:
    config = recipe(**change)
    with pytest.raises(UserError, match=text):
        train(config)
    assert not config.out.exists()
