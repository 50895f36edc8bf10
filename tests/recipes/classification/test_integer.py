"""``--precision int8``: runs that learn, resume, transfer and refuse."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from l1bn import fixed_point as fp
from l1bn import quantized
from l1bn.errors import UserError
from l1bn.fixed_point import inference
from l1bn.recipes.classification.integer import IntegerPreprocess, IntegerTrainer
from l1bn.recipes.classification.run import train
from l1bn.recipes.config import CompareConfig, TrainConfig
from l1bn.recipes.data import ImageSet
from l1bn.recipes.files.checkpoint import load_checkpoint
from l1bn.recipes.machine.interrupt import Interrupted
from quantized.training.test_integers_only import IntegersOnly
from recipes.classification.test_classification import curve, stop_after

Recipe = Callable[..., TrainConfig]


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_an_integer_run_learns(norm: str, recipe: Recipe, tiny: ImageSet) -> None:
    config = recipe(precision="int8", norm=norm, epochs=10)
    trainer = train(config, tiny)
    assert isinstance(trainer, IntegerTrainer)
    result = json.loads((config.out / "result.json").read_text())
    assert result["test_accuracy"] > 0.9
    assert result["class_accuracy"] == trainer.class_accuracy()
    saved = load_checkpoint(config.out / "last.pt")["model"]
    tensors = [v for v in saved.values() if isinstance(v, torch.Tensor)]
    assert tensors
    assert not any(t.is_floating_point() for t in tensors)


@pytest.mark.parametrize("steps", [2, 6])
def test_an_interrupted_run_resumes_bit_by_bit(
    steps: int,
    recipe: Recipe,
    tiny: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    config = recipe(precision="int8")
    whole = dataclasses.replace(config, out=tmp_path / "whole")
    train(whole, tiny)
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        patch.setattr(IntegerTrainer, "step", _stopping(IntegerTrainer.step))
        with pytest.raises(Interrupted):
            train(config, tiny)
    train(config, tiny, resume=True)
    assert curve(config.out) == curve(whole.out)
    first, second = (load_checkpoint(c.out / "last.pt")["model"] for c in (config, whole))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if torch.is_tensor(value) else value == second[name]


def _stopping(step):  # type: ignore[no-untyped-def]
    """Give the integer step the counter that `stop_after` put into the float one."""

    def counted(self, *batch):  # type: ignore[no-untyped-def]
        stop_after.left -= 1  # type: ignore[attr-defined]
        result = step(self, *batch)
        if stop_after.left == 0:  # type: ignore[attr-defined]
            from l1bn.recipes.classification import trainer as classification

            with classification.deferred_interrupt() as request:
                request.made = True
        return result

    return counted


def test_a_float_backbone_learns_new_classes_in_integers(
    recipe: Recipe, tiny: ImageSet, tmp_path: pathlib.Path
) -> None:
    first = recipe(classes=(0, 1), epochs=8)
    train(first, tiny)
    result = json.loads((first.out / "result.json").read_text())
    assert result["test_accuracy"] > 0.9
    assert result["class_accuracy"][2] == 0.0
    second = dataclasses.replace(
        first,
        precision="int8",
        classes=(2,),
        weights=first.out / "last.pt",
        backbone_rate=0.0,
        frozen_statistics=True,
        out=tmp_path / "second",
    )
    trainer = train(second, tiny)
    assert json.loads((second.out / "result.json").read_text())["class_accuracy"][2] > 0.9
    kept = trainer.model.state_dict()
    fresh = IntegerTrainer(second, tiny)
    fresh.start_from(first.out / "last.pt")
    assert any(n.startswith("layers.0.") for n in kept)
    for name, value in fresh.model.state_dict().items():
        if name.startswith("layers.0.") and torch.is_tensor(value):
            assert torch.equal(value, kept[name]), name


def test_an_integer_checkpoint_gives_its_weights(
    recipe: Recipe, tiny: ImageSet, tmp_path: pathlib.Path
) -> None:
    config = recipe(precision="int8", epochs=1)
    trained = train(config, tiny)
    other = IntegerTrainer(dataclasses.replace(config, seed=5, out=tmp_path / "other"), tiny)
    other.start_from(config.out / "last.pt")
    assert other.evaluate(tiny.test) == trained.evaluate(tiny.test)


def test_it_trains_on_single_images(recipe: Recipe, tiny: ImageSet) -> None:
    options = {"int8_statistics": "running", "int8_statistics_momentum": 0.01}
    trainer = train(recipe(precision="int8", epochs=1, batch_size=1, lr=0.005, **options), tiny)
    assert isinstance(trainer, IntegerTrainer)
    norm = trainer.model.layers[0].norm
    assert norm.num_batches_tracked == len(tiny.train)
    assert norm.momentum == round(0.01 * 2048)
    assert trainer.evaluate(tiny.test)[1] > 0.5


def test_an_exported_run_gives_the_same_integers(
    recipe: Recipe, tiny: ImageSet, tmp_path: pathlib.Path
) -> None:
    trainer = train(recipe(precision="int8", epochs=1), tiny)
    assert isinstance(trainer, IntegerTrainer)
    images = trainer.integers(tiny.test.images)
    path = quantized.export(trainer.model, tmp_path / "model", images)
    logits = inference.load_model(path).run(images.values.numpy())
    assert (logits == trainer.model.eval()(images).values.numpy()).all()


def test_preprocessing_is_the_float_one_in_steps(tiny: ImageSet) -> None:
    prepare = IntegerPreprocess(tiny, torch.device("cpu"))
    mean, std = tiny.moments()
    expected = (tiny.test.images.float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    got = prepare(tiny.test.images)
    assert got.values.is_contiguous(memory_format=torch.channels_last)
    inside = expected.abs() < 127 * 2.0**got.exponent
    assert inside.float().mean() > 0.95
    assert (got.real() - expected)[inside].abs().max() <= 0.5001 * 2.0**got.exponent
    assert fp.peak_shift(int(got.values.abs().max())) == 0
    assert int(got.values.abs().max()) > 63, "a bit is wasted"


def test_depthwise_networks_train_in_integers(recipe: Recipe, tiny: ImageSet) -> None:
    trainer = train(recipe(precision="int8", model="mobilenet", width=0.25, epochs=1), tiny)
    assert isinstance(trainer, IntegerTrainer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 100.0}, "--precision int8: expected a rate in"),
        ({"decay_norm": True}, "--precision int8 has no --decay-norm"),
    ],
)
def test_options_without_an_integer_form_are_refused(
    changes: dict[str, Any], message: str, recipe: Recipe, tiny: ImageSet
) -> None:
    config = recipe(precision="int8", **changes)
    with pytest.raises(UserError, match=message):
        train(config, tiny)
    assert not config.out.exists()


def test_a_step_of_the_trainer_is_made_of_integers(recipe: Recipe, tiny: ImageSet) -> None:
    trainer = IntegerTrainer(recipe(precision="int8"), tiny)
    with IntegersOnly():
        trainer.step(tiny.train.images[:24], tiny.train.labels[:24])


def test_weights_of_another_width_are_refused(
    recipe: Recipe, tiny: ImageSet, tmp_path: pathlib.Path
) -> None:
    config = recipe(precision="int8", epochs=1)
    train(config, tiny)
    other = dataclasses.replace(
        config, int8_master_bits=8, weights=config.out / "last.pt", out=tmp_path / "other"
    )
    with pytest.raises(
        UserError, match="expected a state of master_bits=8, got one of master_bits=16"
    ):
        train(other, tiny)


def test_bad_formats_are_refused(recipe: Recipe, tiny: ImageSet) -> None:
    with pytest.raises(UserError, match="expected master_bits of 8 to 16, got 20"):
        train(recipe(precision="int8", int8_master_bits=20), tiny)


def test_a_comparison_has_no_integers() -> None:
    with pytest.raises(UserError, match=r"expected --precision fp32 or bf16 .* got int8"):
        CompareConfig(precision="int8").validate()


def test_unknown_classes_are_refused(recipe: Recipe, tiny: ImageSet) -> None:
    with pytest.raises(UserError, match=r"expected --classes of 0 to 2, got 3"):
        train(recipe(classes=(0, 3)), tiny)


def test_statistics_are_frozen_with_weights_only(recipe: Recipe, tiny: ImageSet) -> None:
    with pytest.raises(UserError, match="expected --weights with --frozen-statistics"):
        train(recipe(frozen_statistics=True), tiny)


def test_fewer_images_are_drawn_by_the_seed(tiny: ImageSet) -> None:
    few = tiny.train.only(images=10, seed=1)
    assert len(few) == 10
    assert torch.equal(few.images, tiny.train.only(images=10, seed=1).images)
    assert not torch.equal(few.labels, tiny.train.only(images=10, seed=2).labels)
    assert set(tiny.train.only(classes=[1]).labels.tolist()) == {1}
    with pytest.raises(UserError, match="no image has a label"):
        tiny.train.only(classes=[7])


def test_a_slow_backbone_in_float(recipe: Recipe, tiny: ImageSet) -> None:
    from l1bn.recipes.classification.trainer import Trainer

    moved = {}
    for rate in (1.0, 0.1, 0.0):
        trainer = Trainer(recipe(backbone_rate=rate), tiny)
        weight = trainer.model.stem[0].weight
        before = weight.detach().clone()
        trainer._set_rate(0.1)
        trainer.step(tiny.train.images[:24], tiny.train.labels[:24])
        moved[rate] = float((weight.detach() - before).abs().mean())
    assert moved[0.0] == 0.0
    assert 0.0 < moved[0.1] < 0.2 * moved[1.0]


def test_an_int8_run_from_before_the_wider_sums_is_not_taken_for_one_of_today() -> None:
    saved = {k: v for k, v in TrainConfig().saved().items() if k != "int8_residual_fraction"}
    assert TrainConfig().changes(saved) == ""
    saved["precision"] = "int8"
    config = TrainConfig(precision="int8")
    assert config.changes(saved) == "int8_residual_fraction 4, not 3"
    resumed = TrainConfig.from_saved(saved)
    assert resumed.int8_residual_fraction == 4
    assert resumed.changes(saved) == ""
