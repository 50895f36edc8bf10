from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from l1bn.recipes.classification.measure import deviation_ratios, saved_bytes, step_seconds
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet

Recipe = Callable[..., TrainConfig]


def test_rounds_are_timed_for_every_variant(recipe: Recipe, tiny: ImageSet) -> None:
    trainers = {norm: Trainer(recipe(norm=norm), tiny) for norm in ("l1", "l2")}
    times = step_seconds(trainers, 5)  # type: ignore[arg-type]
    assert {k: len(v) for k, v in times.items()} == {"l1": 5, "l2": 5}
    assert all(t > 0 for v in times.values() for t in v)


class _Squares(nn.Module):
    """Keeps its input once although two operations need it, and a parameter that is not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 8))
        self.head = nn.Linear(64, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * self.weight  # keeps x
        return self.head((y.square() + y.exp()).flatten(1))  # keeps y, exp(y) and their sum


def test_saved_bytes_count_each_storage_once(recipe: Recipe, tiny: ImageSet) -> None:
    trainer = Trainer(recipe(), tiny)
    trainer.model = _Squares()
    features = 24 * 64 * 4
    logits = 24 * 3 * 4  # the log-softmax
    scalars_and_labels = 24 * 8 + 8
    counted = saved_bytes(trainer)
    assert 4 * features + logits <= counted <= 4 * features + logits + scalars_and_labels


def test_saved_bytes_change_nothing(recipe: Recipe, tiny: ImageSet) -> None:
    trainer = Trainer(recipe(), tiny)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    assert saved_bytes(trainer) == saved_bytes(trainer) > 0
    deviation_ratios(trainer)
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[key])


class _Noise(nn.Module):
    """Feeds a norm with channels of known distributions, one of them constant."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        exponential = torch.distributions.Exponential(1.0).sample((size,))
        sign = torch.randint(0, 2, (size,)) * 2 - 1
        channels = [torch.randn(size), torch.rand(size), sign * exponential, torch.ones(size)]
        self.noise = (
            torch.stack(channels).view(1, 4, -1, 1)
            * torch.tensor([3, 0.01, 50, 2]).view(1, 4, 1, 1)
            + 7
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.noise)


def test_ratios_are_those_of_known_distributions(recipe: Recipe, tiny: ImageSet) -> None:
    trainer = Trainer(recipe(), tiny)
    trainer.model = _Noise(400_000)
    ((name, values),) = deviation_ratios(trainer).items()
    assert name == "norm"
    expected = [math.sqrt(math.pi / 2), 2 / math.sqrt(3), math.sqrt(2)]  # constant: left out
    assert values == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_every_layer_has_a_ratio_per_channel(norm: str, recipe: Recipe, tiny: ImageSet) -> None:
    ratios = deviation_ratios(Trainer(recipe(norm=norm, width=1.0), tiny))
    assert [len(v) for v in ratios.values()] == [16, 16, 16, 32, 32, 32, 64, 64, 64]
    assert all(v >= 1.0 for values in ratios.values() for v in values)
