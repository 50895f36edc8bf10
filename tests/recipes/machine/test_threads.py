"""The number of threads is a run's own, and the process's again afterwards."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from l1bn.recipes.classification.run import train
from l1bn.recipes.gan.config import GanConfig
from l1bn.recipes.gan.images import fit_size
from l1bn.recipes.gan.trainer import train_gan
from l1bn.recipes.machine.threads import thread_count


@pytest.fixture
def other() -> int:
    """A number of threads that is not the process's own."""
    return torch.get_num_threads() + 1


def test_inside_and_afterwards(other):
    before = torch.get_num_threads()
    with thread_count(other):
        assert torch.get_num_threads() == other
    assert torch.get_num_threads() == before
    with thread_count(None):
        assert torch.get_num_threads() == before


def test_an_error_gives_them_back(other):
    before = torch.get_num_threads()
    with pytest.raises(KeyError), thread_count(other):
        raise KeyError
    assert torch.get_num_threads() == before


def test_a_classifier_trains_with_its_own(recipe, tiny, other):
    before = torch.get_num_threads()
    config = recipe(epochs=1, threads=other)
    train(config, tiny)
    assert torch.get_num_threads() == before
    assert json.loads((config.out / "result.json").read_text())["threads"] == other
    plain = dataclasses.replace(config, threads=None, out=config.out.with_name("plain"))
    train(plain, tiny)
    assert json.loads((plain.out / "result.json").read_text())["threads"] == before


def test_a_gan_trains_with_its_own(tiny, tmp_path, other):
    before = torch.get_num_threads()
    config = GanConfig(
        threads=other,
        steps=1,
        width=0.0625,
        tensorboard=False,
        progress=False,
        out=tmp_path / "gan",
    )
    train_gan(config, fit_size(tiny))
    assert torch.get_num_threads() == before
    assert json.loads((config.out / "result.json").read_text())["threads"] == other
