from __future__ import annotations

import pytest
import torch

from l1bn.recipes.data import ImageSet
from l1bn.recipes.data.augment import Preprocess, plan_epoch, random_crop


def test_a_crop_is_the_window_at_its_corner() -> None:
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    corner = torch.tensor([[0, 4], [3, 2]])
    padded = torch.zeros(2, 3, 8, 9, dtype=torch.uint8)
    padded[:, :, 2:6, 2:7] = images
    cut = random_crop(images, corner, 2)
    assert torch.equal(cut[0], padded[0, :, 0:4, 4:9])
    assert torch.equal(cut[1], padded[1, :, 3:7, 2:7])
    assert torch.equal(random_crop(images, torch.full((2, 2), 2), 2), images)


def test_an_epoch_shows_every_image_once_up_to_whole_batches(tiny: ImageSet) -> None:
    plan = plan_epoch(72, 24, seed=0, epoch=0, padding=0, mirror="none")
    batches = list(plan.batches(tiny.train))
    assert len(batches) == len(plan) == 3
    shown = torch.cat([images for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    assert sorted(plan.order.tolist()) == list(range(72))
    assert torch.equal(shown, tiny.train.images[plan.order])
    assert torch.equal(labels, tiny.train.labels[plan.order])
    assert len(plan_epoch(72, 25, 0, 0, padding=0, mirror="none")) == 2
    assert len(plan_epoch(72, 500, 0, 0, padding=0, mirror="none")) == 1


def test_seed_and_epoch_decide_every_choice() -> None:
    def choices(seed: int, epoch: int) -> torch.Tensor:
        plan = plan_epoch(50, 10, seed, epoch, padding=2, mirror="random")
        return torch.cat([plan.order[:, None], plan.corner, plan.mirror[:, None]], 1)

    assert torch.equal(choices(3, 4), choices(3, 4))
    assert not torch.equal(choices(3, 4), choices(3, 5))
    assert not torch.equal(choices(3, 4), choices(4, 4))


def test_a_plan_continues_in_the_middle(tiny: ImageSet) -> None:
    plan = plan_epoch(72, 24, 1, 2, padding=1, mirror="random")
    whole, rest = list(plan.batches(tiny.train)), list(plan.batches(tiny.train, 1))
    for (a, b), (c, d) in zip(whole[1:], rest, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_mirroring_flips_about_half_and_only_when_asked(tiny: ImageSet) -> None:
    plan = plan_epoch(2000, 100, 0, 0, padding=0, mirror="random")
    assert 850 < int(plan.mirror.sum()) < 1150
    assert not plan_epoch(2000, 100, 0, 0, padding=0, mirror="none").mirror.any()
    plan = plan_epoch(72, 72, 0, 0, padding=0, mirror="random")
    images, _ = next(iter(plan.batches(tiny.train)))
    source = tiny.train.images[plan.order]
    assert torch.equal(images[plan.mirror], source[plan.mirror].flip(-1))
    assert torch.equal(images[~plan.mirror], source[~plan.mirror])


def test_an_image_is_mirrored_in_every_other_epoch() -> None:
    def mirrored(epoch: int, seed: int = 5) -> torch.Tensor:
        plan = plan_epoch(2000, 100, seed, epoch, padding=0, mirror="alternate")
        sides = torch.empty(2000, dtype=torch.bool)
        sides[plan.order] = plan.mirror
        return sides

    first = mirrored(0)
    assert 850 < int(first.sum()) < 1150
    assert torch.equal(mirrored(1), ~first)
    assert torch.equal(mirrored(2), first)
    assert not torch.equal(mirrored(0, seed=6), first)


def test_the_other_choices_do_not_depend_on_how_images_are_mirrored() -> None:
    plans = [plan_epoch(50, 10, 3, 4, padding=2, mirror=m) for m in ("random", "alternate")]
    assert torch.equal(plans[0].order, plans[1].order)
    assert torch.equal(plans[0].corner, plans[1].corner)


def test_a_crop_beyond_the_edge_sees_the_image_mirrored(tiny: ImageSet) -> None:
    images = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    corner = torch.tensor([[0, 6], [3, 2]])
    padded = torch.nn.functional.pad(images.float(), (3, 3, 3, 3), mode="reflect").byte()
    cut = random_crop(images, corner, 3, "reflect")
    assert torch.equal(cut[0], padded[0, :, 0:4, 6:11])
    assert torch.equal(cut[1], padded[1, :, 3:7, 2:7])
    plan = plan_epoch(72, 72, 0, 0, padding=2, mirror="none", edges="reflect")
    shown, _ = next(iter(plan.batches(tiny.train)))
    source = tiny.train.images[plan.order]
    assert torch.equal(shown, random_crop(source, plan.corner, 2, "reflect"))


def test_crops_reach_every_corner() -> None:
    corner = plan_epoch(5000, 100, 0, 0, padding=2, mirror="none").corner
    assert {tuple(c) for c in corner.tolist()} == {(i, j) for i in range(5) for j in range(5)}


@pytest.mark.parametrize("channels_last", [False, True])
def test_training_images_become_standardised(tiny: ImageSet, channels_last: bool) -> None:
    preprocess = Preprocess(tiny.moments(), torch.device("cpu"), channels_last)
    values = preprocess(tiny.train.images)
    assert values.dtype == torch.float32
    assert abs(values.mean().item()) < 1e-4
    assert abs(values.std(correction=0).item() - 1) < 1e-4
    layout = torch.channels_last if channels_last else torch.contiguous_format
    colour = Preprocess(
        ImageSet(
            "rgb",
            *(
                type(tiny.train)(s.images.expand(-1, 3, -1, -1), s.labels)
                for s in (tiny.train, tiny.test)
            ),
            tiny.classes,
        ).moments(),
        torch.device("cpu"),
        channels_last,
    )
    assert colour(tiny.train.images.expand(-1, 3, -1, -1)).is_contiguous(memory_format=layout)
