from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

from l1bn.errors import UserError
from l1bn.recipes.data import ImageSet, Split
from l1bn.recipes.gan.images import fit_size, image_grid, resize, save_png, to_bytes, to_float


def images(size: int, count: int = 3, channels: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8)


def image_set(size: int) -> ImageSet:
    split = Split(images(size), torch.zeros(3, dtype=torch.int64))
    return ImageSet("some", split, split, ("a",))


@pytest.mark.parametrize(("size", "fitted"), [(8, 16), (16, 16), (28, 32), (32, 32), (96, 128)])
def test_images_grow_to_the_next_size(size: int, fitted: int) -> None:
    data = fit_size(image_set(size))
    assert data.train.images.shape == data.test.images.shape == (3, 1, fitted, fitted)
    assert data.train.images.dtype == torch.uint8


def test_a_fitting_size_is_left_alone_and_a_larger_one_refused() -> None:
    data = image_set(32)
    assert fit_size(data).train.images is data.train.images
    with pytest.raises(
        UserError,
        match="expected images of at most 128 pixels, but some has 200; give --image-size 16, 32,",
    ):
        fit_size(image_set(200))


def test_resizing_keeps_flat_images_and_means() -> None:
    flat = torch.full((2, 3, 28, 28), 77, dtype=torch.uint8)
    assert (resize(flat, 32) == 77).all()
    noise = images(32, channels=3)
    assert float(resize(noise, 16).float().mean()) == pytest.approx(noise.float().mean(), abs=1.5)


@pytest.mark.parametrize("channels_last", [True, False])
def test_bytes_to_floats_and_back(channels_last: bool) -> None:
    original = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    values = to_float(original, torch.device("cpu"), channels_last)
    assert (float(values.min()), float(values.max())) == (-1.0, 1.0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert values.is_contiguous(memory_format=layout)
    assert torch.equal(to_bytes(values), original)


def test_a_grid_shows_each_image_at_its_place(tmp_path: pathlib.Path) -> None:
    pixels = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).repeat(1, 3, 64, 64)
    grid = image_grid(pixels, columns=8)
    assert grid.shape == (2 * 66 + 2, 8 * 66 + 2, 3)
    for index in range(10):
        top, left = 2 + 66 * (index // 8), 2 + 66 * (index % 8)
        assert (grid[top : top + 64, left : left + 64] == index).all()
    assert (grid[:2] == 255).all()
    assert (grid[70:, 140:] == 255).all()
    save_png(grid, tmp_path / "new" / "grid.png")
    with Image.open(tmp_path / "new" / "grid.png") as file:
        assert np.array_equal(np.asarray(file), grid)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["grid.png"]


def test_small_grey_images_are_enlarged() -> None:
    one = torch.tensor([[[[0, 50], [100, 150]]]], dtype=torch.uint8)
    grid = image_grid(one, columns=1)
    assert grid.shape == (68, 68, 3)
    assert (grid[2:34, 34:66] == 50).all()
    with pytest.raises(ValueError, match="expected images of 1 or 3 channels, got 2"):
        image_grid(images(4, channels=2))
