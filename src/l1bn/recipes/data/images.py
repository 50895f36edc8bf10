"""Labelled images in memory: the embedded digits, or any set that ``datasets`` can read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from l1bn.errors import UserError
from l1bn.recipes.models import ModelSpec

DIGITS = "digits"
"""Name of the embedded default set."""

_DIGITS_SIZE = 16
_DIGITS_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """Images and labels.

    Shape:
        - images: ``(N, C, H, W)``, uint8
        - labels: ``(N,)``, int64
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def only(
        self, classes: Sequence[int] | None = None, images: int | None = None, seed: int = 0
    ) -> Split:
        """Return the images of some classes, and only so many of them.

        Args:
            classes: Labels to keep; None keeps all.
            images: How many to draw; None keeps all.
            seed: Decides which are drawn.

        Raises:
            UserError: If that leaves no image.
        """
        index = torch.arange(len(self))
        if classes is not None:
            index = index[torch.isin(self.labels, torch.tensor(list(classes)))]
        if images is not None and images < len(index):
            generator = torch.Generator().manual_seed(seed)
            index = index[torch.randperm(len(index), generator=generator)[:images].sort().values]
        if len(index) == 0:
            raise UserError(f"no image has a label of {classes}; see the data set's classes")
        return self if len(index) == len(self) else Split(self.images[index], self.labels[index])


@dataclass(frozen=True)
class ImageSet:
    """A training and a test split, with what a model and a reader need to know.

    Attributes:
        name: As the user named it.
        train: Training split.
        test: Test split.
        classes: Names of the classes.
        mirror: Whether a mirrored image keeps its class as far as is known.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mirror: bool = True

    @property
    def image_size(self) -> int:
        """Height and width [pixels]."""
        return self.train.images.shape[-1]

    @cached_property
    def fingerprint(self) -> dict[str, object]:
        """What tells this set from another: numbers of images, classes, a hash of every pixel."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(str(tuple(split.images.shape)).encode())
            digest.update(split.images.contiguous().numpy().data)
            digest.update(split.labels.contiguous().numpy().data)
        return {
            "training images": len(self.train),
            "test images": len(self.test),
            "classes": list(self.classes),
            "sha256": digest.hexdigest(),
        }

    def check_same(self, saved: object, where: Path) -> None:
        """Refuse a run that was made with other images.

        Args:
            saved: The ``fingerprint`` that the run keeps.
            where: File that it is kept in.

        Raises:
            UserError: It says what changed.
        """
        if not isinstance(saved, dict) or set(saved) != set(self.fingerprint):
            raise UserError(f"{where}: expected data to be a fingerprint of images; start anew")
        for name, now in self.fingerprint.items():
            if saved[name] != now:
                what = f"{saved[name]} {name}, not {now}"
                if name == "classes":
                    what = f"the classes {', '.join(map(str, saved[name]))}"
                elif name == "sha256":
                    what = "other images or labels under the same names"
                raise UserError(
                    f'{where} was made with {what}, and "{self.name}" cannot continue it; give '
                    "--data the images that it was made with, or start a new run"
                )

    def spec(self, width: float = 1.0) -> ModelSpec:
        """Return what a model must fit."""
        return ModelSpec(self.train.images.shape[1], self.image_size, len(self.classes), width)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation per colour of the training images [0 to 255]."""
        images = self.train.images
        sums = torch.zeros(2, images.shape[1], dtype=torch.float64)
        for chunk in images.split(4096):
            values = chunk.double()
            sums += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
        mean, square = sums / (images.numel() // images.shape[1])
        return mean.float(), (square - mean.square()).sqrt().clamp_min(1.0).float()


def load_data(
    name: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    image_size: int | None = None,
    progress: bool = True,
) -> ImageSet:
    """Load a set of labelled images into memory.

    Args:
        name: ``"digits"``, a folder, or a name on the Hugging Face hub.
        image_column: Column of the images; None finds the only one of that type.
        label_column: Column of the classes; None finds the only one of that type.
        image_size: Resize to this height and width [pixels]; None keeps the size.
        progress: Show a bar while images are decoded for the first time.

    Raises:
        UserError: If there is no such set, or it is no set of labelled images.
    """
    if name == DIGITS:
        return _digits(image_size or _DIGITS_SIZE)
    from l1bn.recipes.data.hub import load_hub

    train, test, classes = load_hub(name, image_column, label_column, image_size, progress)
    for label, split in (("training", train), ("test", test)):
        if len(split[0]) == 0:
            raise UserError(f'"{name}" has no {label} images')
    return ImageSet(name, _split(*train), _split(*test), classes)


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def _digits(size: int) -> ImageSet:
    """Return scikit-learn's 1797 digits of 8x8 pixels, enlarged, with a fixed stratified split.

    Enlarged to 16x16 because a network that halves the resolution twice would be left with 2x2.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).float().unsqueeze(1) * (255 / 16)
    large = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    images = large.round().to(torch.uint8).numpy()
    labels = bunch.target
    parts = train_test_split(
        images, labels, test_size=_DIGITS_TEST_SHARE, random_state=0, stratify=labels
    )
    train_images, test_images, train_labels, test_labels = parts
    return ImageSet(
        DIGITS,
        _split(train_images, train_labels),
        _split(test_images, test_labels),
        tuple(str(n) for n in bunch.target_names),
        mirror=False,
    )
