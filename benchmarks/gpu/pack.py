"""Pack labelled images into one file, for a machine without a network.

    python benchmarks/gpu/pack.py uoft-cs/cifar10 cifar10.npz

Takes what `l1bn train --data` takes: a name on the Hugging Face hub, a folder, or ``digits``. The
file holds bytes and labels, and nothing that runs when it is read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from l1bn.recipes.data import load_data

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "classes")


class Packed(NamedTuple):
    """Images and labels of both splits.

    Shape:
        - images: ``(N, C, H, W)``, uint8
        - labels: ``(N,)``, int64
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: int


def pack(name: str, path: Path) -> None:
    """Load a set of images and write it to one file."""
    data = load_data(name)
    tensors = data.train.images, data.train.labels, data.test.images, data.test.labels
    arrays = [*(v.numpy() for v in tensors), np.array(len(data.classes))]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, **dict(zip(_ARRAYS, arrays, strict=True)))


def unpack(path: Path) -> Packed:
    """Read what ``pack`` wrote.

    Raises:
        ValueError: it holds something else.
    """
    with np.load(path, allow_pickle=False) as file:
        if sorted(file.files) != sorted(_ARRAYS):
            raise ValueError(
                f"{path}: expected the arrays {', '.join(_ARRAYS)}, got {', '.join(file.files)}: "
                "pack images by benchmarks/gpu/pack.py"
            )
        *arrays, classes = (file[name] for name in _ARRAYS)
    return Packed(*map(torch.from_numpy, arrays), int(classes))


def main() -> int:
    """Pack one set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="as l1bn train --data takes it")
    parser.add_argument("path", type=Path, help="file to write: NAME.npz")
    options = parser.parse_args()
    pack(options.data, options.path)
    print(f"{options.path}: {options.path.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
