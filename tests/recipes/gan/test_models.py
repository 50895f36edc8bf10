from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from judge import assert_close
from l1bn.nn import L1BatchNormAct2d
from l1bn.recipes.gan.config import GanConfig
from l1bn.recipes.gan.models import SIZES, Critic, Generator, build_gan
from l1bn.recipes.models import BatchNormAct2d

BATCH_NORMS = (L1BatchNormAct2d, BatchNormAct2d)


def build(channels: int = 3, size: int = 32, **options: Any) -> tuple[Generator, Critic]:
    torch.manual_seed(0)
    return build_gan(GanConfig(**{"width": 0.125, "latent": 10, **options}), channels, size)


def kinds(model: nn.Module) -> list[type[nn.Module]]:
    return [type(m) for m in model.modules() if isinstance(m, BATCH_NORMS)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_shapes(size: int, channels: int) -> None:
    generator, critic = build(channels, size, width=1 / 32)
    images = generator(torch.randn(2, 10))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert critic(images).shape == (2,)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images of one of \(16, .*\) pixels, got 28"):
        build(size=28)


def test_full_width_has_the_channels_of_dcgan() -> None:
    """Radford et al. have twice as many: 128 before the image, doubled to 1024 at 4x4."""
    generator, critic = build(size=64, width=1.0)
    up = [m.out_channels for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    down = [m.out_channels for m in critic.modules() if isinstance(m, nn.Conv2d)]
    assert up == [512, 256, 128, 64, 3]
    assert down == [64, 128, 256, 512, 1]


@pytest.mark.parametrize("model", ["dcgan", "wgan-gp"])
def test_both_norms_start_from_the_same_weights(model: str) -> None:
    for l1, l2 in zip(build(model=model, norm="l1"), build(model=model, norm="l2"), strict=True):
        assert list(l1.state_dict()) == list(l2.state_dict())
        for key, value in l1.state_dict().items():
            assert torch.equal(value, l2.state_dict()[key]), key


@pytest.mark.parametrize(("norm", "kind"), [("l1", L1BatchNormAct2d), ("l2", BatchNormAct2d)])
def test_the_norm_is_where_the_method_puts_it(norm: str, kind: type[nn.Module]) -> None:
    generator, critic = build(model="dcgan", norm=norm)
    assert kinds(generator) == [kind] * 3
    assert kinds(critic) == [kind] * 2
    generator, critic = build(model="wgan-gp", norm=norm)
    assert kinds(generator) == [kind] * 3
    assert kinds(critic) == []


@pytest.mark.parametrize("critic_norm", ["layer", "instance", "identity"])
def test_the_critic_of_wgan_keeps_samples_apart(critic_norm: str) -> None:
    _, critic = build(model="wgan-gp", critic_norm=critic_norm)
    images = torch.randn(4, 3, 32, 32)
    alone = torch.cat([critic(image[None]) for image in images])
    assert_close(critic(images), alone, "single")
    _, mixing = build(model="dcgan")
    assert (mixing(images) - mixing(images[:2]).repeat(2)).abs().max() > 1e-3


def test_weights_are_drawn_as_in_dcgan() -> None:
    generator, critic = build(width=0.5)
    for model in (generator, critic):
        for name, parameter in model.named_parameters():
            values = parameter.detach()
            if values.dim() > 1:
                assert float(values.mean()) == pytest.approx(0, abs=0.005), name
                assert float(values.std()) == pytest.approx(0.02, rel=0.2), name
            elif name.endswith("bias"):
                assert not values.any(), name
            else:
                assert float(values.mean()) == pytest.approx(1, abs=0.02), name
                assert float(values.std()) == pytest.approx(0.02, rel=0.5), name
