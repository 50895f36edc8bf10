from __future__ import annotations

import itertools

import torch

from l1bn.recipes.data import Split
from l1bn.recipes.gan.noise import Batches, stream


def test_streams_are_repeatable_and_differ() -> None:
    keys = list(itertools.product((0, 1, 2**32 - 1), ("train", "grid", "distance"), (0, 1, 10**6)))
    first = [torch.rand(1, generator=stream(*key)).item() for key in keys]  # type: ignore[arg-type]
    again = [torch.rand(1, generator=stream(*key)).item() for key in keys]  # type: ignore[arg-type]
    assert first == again
    assert len(set(first)) == len(keys)


def test_batches_pass_over_all_images_epoch_after_epoch() -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    batches = Batches(Split(images, torch.zeros(10)), 5, seed=0)
    assert batches.per_epoch == 2
    seen = [batches[i].flatten().tolist() for i in range(6)]
    epochs = [seen[i] + seen[i + 1] for i in (0, 2, 4)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert batches[1].flatten().tolist() == seen[1]
    assert Batches(Split(images, torch.zeros(10)), 64, seed=0)[3].shape == (10, 1, 1, 1)
