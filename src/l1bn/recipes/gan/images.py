"""Images for a GAN: sizes its networks can make, values in -1 to 1, and grids as PNG."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from l1bn.errors import UserError
from l1bn.recipes.data import ImageSet, Split
from l1bn.recipes.files.writing import write_bytes
from l1bn.recipes.gan.models import SIZES

_CHUNK = 4096
_GAP = 2
_READABLE = 64


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return uint8 images at another height and width, bilinear and without aliasing.

    Shape:
        - images: ``(N, C, H, W)``, uint8
        - output: ``(N, C, size, size)``, uint8
    """
    if images.shape[-2:] == (size, size):
        return images
    parts = [
        F.interpolate(part.float(), size=(size, size), mode="bilinear", antialias=True)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
        for part in images.split(_CHUNK)
    ]
    return torch.cat(parts)


def fit_size(data: ImageSet) -> ImageSet:
    """Return the data at a size that the networks can make: its own, or the next larger.

    Raises:
        UserError: If the images are larger than that.
    """
    size = next((s for s in SIZES if s >= data.image_size), None)
    if size is None:
        raise UserError(
            f"expected images of at most {SIZES[-1]} pixels, but {data.name} has "
            f"{data.image_size}; give --image-size {', '.join(map(str, SIZES[:-1]))} or {SIZES[-1]}"
        )
    train, test = (Split(resize(s.images, size), s.labels) for s in (data.train, data.test))
    return dataclasses.replace(data, train=train, test=test)


def to_float(images: torch.Tensor, device: torch.device, channels_last: bool) -> torch.Tensor:
    """Return uint8 images as floats in -1 to 1 on the device."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return (images.to(device).float() / 127.5 - 1).contiguous(memory_format=layout)


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Return images in -1 to 1 as uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def image_grid(images: torch.Tensor, columns: int = 8) -> np.ndarray:
    """Lay images out in rows, on white, enlarged by a whole factor if they are small.

    Args:
        images: (N, C, H, W) of uint8; grey, or red, green and blue.
        columns: Images in a row.

    Returns:
        (height, width, 3) of uint8.

    Raises:
        ValueError: If the images have neither one nor three channels.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"expected images of 1 or 3 channels, got {images.shape[1]}")
    scale = max(1, _READABLE // images.shape[-1])
    pixels = images.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = pixels.shape[1] + _GAP, pixels.shape[2] + _GAP
    rows = -(-len(pixels) // columns)
    grid = np.full((rows * height + _GAP, columns * width + _GAP, 3), 255, np.uint8)
    for index, image in enumerate(pixels):
        top, left = (index // columns) * height + _GAP, (index % columns) * width + _GAP
        grid[top : top + height - _GAP, left : left + width - _GAP] = image
    return grid


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Write a PNG as one step."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    write_bytes(path, buffer.getvalue())
