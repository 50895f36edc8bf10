"""The Fréchet distance between real and generated images on the features of our own classifier.

It has the formula of Heusel et al. (arXiv:1706.08500), but not Inception's features: the number
says which of two generators is nearer to the data, and cannot be compared with published FID.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from l1bn.errors import UserError
from l1bn.recipes.classification.parameters import last_layer
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet
from l1bn.recipes.data.augment import Preprocess
from l1bn.recipes.files.checkpoint import load_checkpoint
from l1bn.recipes.files.saved import check_fields, check_tensors
from l1bn.recipes.gan.images import resize
from l1bn.recipes.models import ModelSpec, build_model
from l1bn.recipes.results import DistanceRecord
from l1bn.strided_conv import to_channels_last_

DISTANCE_NAME = "Fréchet distance on classifier features (not Inception-FID)"
"""What every place that shows the number calls it."""

_CHUNK = 500


class ClassifierFeatures(nn.Module):
    """What a trained classifier hands to its last layer, in evaluation mode.

    Args:
        model: The classifier; its last linear layer is removed.
        preprocess: Turns uint8 images into its inputs.
        image_size: Height and width that it was trained with [pixels].

    Shape:
        - input: ``(N, C, H, W)``, uint8; resized if need be
        - output: ``(N, num_features)``, float64
    """

    def __init__(self, model: nn.Module, preprocess: Preprocess, image_size: int) -> None:
        super().__init__()
        head = last_layer(model)
        name = next(n for n, module in model.named_modules() if module is head)
        self.num_features = int(head.in_features)  # type: ignore[arg-type]
        model.set_submodule(name, nn.Identity())
        self.model = model.eval()
        self._preprocess = preprocess
        self._size = image_size

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features."""
        return self.model(self._preprocess(resize(images, self._size))).double()


def load_features(
    path: Path, data: ImageSet, device: torch.device, channels_last: bool = True
) -> ClassifierFeatures:
    """Rebuild the classifier of an ``l1bn train`` checkpoint and return its features.

    Args:
        path: The checkpoint.
        data: The set it was trained on, of any size.
        device: Where to compute.
        channels_last: Memory format of images and weights.

    Raises:
        UserError: If it is no such checkpoint, or its images had other channels or classes.
    """
    content = load_checkpoint(path)
    check_fields(path, "config", content["config"], TrainConfig)
    config = TrainConfig.from_saved(content["config"])
    if config.precision == "int8":
        raise UserError(
            f"expected --classifier to be a network in floating point, but {path} was trained with "
            "--precision int8"
        )
    spec = ModelSpec(**{**content["shape"], "width": config.width})
    own = data.spec()
    if (spec.in_channels, spec.num_classes) != (own.in_channels, own.num_classes):
        raise UserError(
            f"expected --classifier to be trained on {data.name}, with {own.in_channels} channels "
            f"and {own.num_classes} classes, but {path} was trained on {config.data}, with "
            f"{spec.in_channels} and {spec.num_classes}"
        )
    model = build_model(config.model, config.norm, spec)
    check_tensors(path, "model", content["model"], model.state_dict())
    model.load_state_dict(content["model"])
    model = (to_channels_last_(model) if channels_last else model).to(device)
    # A checkpoint of an older version does not say what its inputs were scaled by.
    saved = content.get("moments")
    moments = data.moments() if saved is None else (torch.tensor(saved[0]), torch.tensor(saved[1]))
    return ClassifierFeatures(model, Preprocess(moments, device, channels_last), spec.image_size)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class FrechetDistance:
    """Measures how far sets of images are from the real ones.

    The features of both sets are taken as Gaussian, as in ``torchmetrics``, whose metric this uses.

    Args:
        features: (N, C, H, W) of uint8 to (N, D), with an attribute ``num_features``.
        real: Real images, uint8.
        device: Where the features are.
    """

    def __init__(self, features: nn.Module, real: torch.Tensor, device: torch.device) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance  # here, for it imports slowly

        self._metric = FrechetInceptionDistance(feature=features, reset_real_features=False)
        self._metric.to(device)
        for chunk in real.split(_CHUNK):
            self._metric.update(chunk, real=True)

    def __call__(self, images: Iterable[torch.Tensor]) -> float:
        """Return the distance of a set of uint8 images, given in chunks; the smaller the better."""
        self._metric.reset()
        for chunk in images:
            self._metric.update(chunk, real=False)
        # The trace of a root of eigenvalues can exceed the sum of variances by a rounding error.
        return max(0.0, float(self._metric.compute()))


@dataclass(frozen=True)
class ReferenceDistance:
    """The distance to the test images, and what it was measured with.

    Attributes:
        measure: Measures generated images.
        images: Images on either side.
        record: Name of the distance, classifier, its hash, and the distance of as many training
            images, for orientation; for ``result.json``.
    """

    measure: FrechetDistance
    images: int
    record: DistanceRecord


def distance_to_test(
    classifier: Path,
    data: ImageSet,
    most_images: int,
    device: torch.device,
    channels_last: bool = True,
) -> ReferenceDistance:
    """Prepare the distance to the test images, and measure that of the training images.

    The test images are the reference because the classifier was not fitted to them: its features of
    training images are drawn to their classes, which no generator could match. For the same reason
    a perfect generator would come nearer to the test images than the training images do.

    Raises:
        UserError: If the checkpoint does not fit the data.
    """
    features = load_features(classifier, data, device, channels_last)
    images = min(most_images, len(data.test), len(data.train))
    measure = FrechetDistance(features, data.test.only(images=images).images, device)
    training = data.train.only(images=images).images
    record: DistanceRecord = {
        "name": DISTANCE_NAME,
        "classifier": str(classifier),
        "sha256": sha256(classifier),
        "features": features.num_features,
        "images": images,
        "distance_of_training_images": measure(training.split(_CHUNK)),
    }
    return ReferenceDistance(measure, images, record)
