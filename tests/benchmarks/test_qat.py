"""The baselines beside integer training are the networks that they stand for."""

from __future__ import annotations

import argparse
import copy
import warnings

import pytest
import torch

from benchmarks.integers import qat, small_batches
from benchmarks.integers.learners import Images
from l1bn import L1BatchNorm2d
from l1bn.recipes.data import load_data
from l1bn.recipes.models import ModelSpec, build_model


def test_the_plain_form_computes_what_the_model_does() -> None:
    torch.manual_seed(0)
    model = build_model("resnet8", "l2", ModelSpec(3, 8, 4, 0.25))
    x = torch.randn(4, 3, 8, 8)
    found = qat.plain(model)
    torch.testing.assert_close(found(x), model(x))
    torch.testing.assert_close(found.eval()(x), model.eval()(x))


def test_qat_rounds_in_training_and_converts_to_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("digits")
    options = argparse.Namespace(model="resnet8", width=0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        learner = qat.learner("QAT", data, options, 0)
        assert isinstance(learner, qat.QatLearner)
        x, labels = Images(data, data.train).part(torch.arange(32))
        for _ in range(3):
            learner.learn(x, labels)
            learner.step(0.05)
        rounded = copy.deepcopy(learner.model).eval()(x.real()).argmax(1)
        converted = learner.converted()
        agree = (converted(x.real()).argmax(1) == rounded).float().mean()
    assert agree > 0.8
    assert any(
        type(m).__module__.startswith("torch.ao.nn.intrinsic.quantized")
        for m in converted.modules()
    )
    monkeypatch.setattr(learner, "converted", lambda: lambda images: -images.flatten(1))
    assert torch.equal(learner.classes(x), x.real().flatten(1).argmin(1))
    names = {type(m).__name__ for m in learner.model.modules()}
    assert {"ConvBnReLU2d", "FusedMovingAvgObsFakeQuantize"} <= names


def test_the_float_form_of_running_statistics_moves_after_it_was_used() -> None:
    torch.manual_seed(0)
    norm = L1BatchNorm2d(3)
    norm.running_mean.normal_()
    norm.num_batches_tracked.fill_(50)
    running = small_batches.Running(norm, 0.25)
    before = norm.running_mean.clone(), norm.running_var.clone()
    x = torch.randn(1, 3, 5, 5)
    wanted = torch.nn.functional.batch_norm(x, *before, norm.weight, norm.bias, eps=norm.eps)
    torch.testing.assert_close(norm(x), wanted)
    assert torch.equal(norm.running_mean, before[0])
    running.move()
    deviation = (x - before[0].view(1, -1, 1, 1)).abs().mean((0, 2, 3)) * small_batches.K
    sigma = (before[1] + norm.eps).sqrt()
    moved = (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(moved, sigma + 0.25 * (deviation - sigma))
    torch.testing.assert_close(norm.running_mean, 0.75 * before[0] + 0.25 * x.mean((0, 2, 3)))
