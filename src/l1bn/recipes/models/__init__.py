"""The model zoo: one function that builds any of them with either norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from l1bn.recipes.models.mobilenet import MobileNet
from l1bn.recipes.models.norm import BatchNormAct2d, NormFactory, norm_factory
from l1bn.recipes.models.resnet import resnet18, resnet50, resnet_cifar
from l1bn.recipes.models.vgg import VGG7
from l1bn.recipes.names import NormName, check_model

__all__ = [
    "MODELS",
    "BatchNormAct2d",
    "ModelSpec",
    "NormFactory",
    "build_model",
    "check_model",
    "norm_factory",
]

_LARGE_IMAGE = 64
"""From this size [pixels] on, a model takes the stem made for ImageNet."""


@dataclass(frozen=True)
class ModelSpec:
    """What a model must fit.

    Attributes:
        in_channels: Channels of the images.
        image_size: Height and width [pixels].
        num_classes: Outputs.
        width: Factor on the model's widths.
    """

    in_channels: int
    image_size: int
    num_classes: int
    width: float = 1.0

    @property
    def large_stem(self) -> bool:
        """Whether the images are large enough for the ImageNet stem."""
        return self.image_size >= _LARGE_IMAGE


MODELS: dict[str, Callable[[ModelSpec, NormFactory], nn.Module]] = {
    "resnet8": lambda s, n: resnet_cifar(1, s.in_channels, s.num_classes, n, s.width),
    "resnet20": lambda s, n: resnet_cifar(3, s.in_channels, s.num_classes, n, s.width),
    "resnet18": lambda s, n: resnet18(s.in_channels, s.num_classes, n, s.width, s.large_stem),
    "resnet50": lambda s, n: resnet50(s.in_channels, s.num_classes, n, s.width, s.large_stem),
    "vgg7": lambda s, n: VGG7(s.in_channels, s.num_classes, s.image_size, n, s.width),
    "mobilenet": lambda s, n: MobileNet(s.in_channels, s.num_classes, n, s.width, s.large_stem),
}
"""Builders by name."""


def build_model(name: str, norm: NormName, spec: ModelSpec) -> nn.Module:
    """Build a model; convolutions are initialised after He et al. (arXiv:1502.01852), fan out.

    The same seed gives the same weights with either norm, and the state-dict keys are the same.

    Args:
        name: A key of ``MODELS``.
        norm: ``"l1"`` or ``"l2"``.
        spec: Shapes to fit.

    Raises:
        UserError: If the name is unknown.
    """
    check_model(name)
    model = MODELS[name](spec, norm_factory(norm))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
