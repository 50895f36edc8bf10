"""Reading labelled images through Hugging Face ``datasets``, decoded once and cached as arrays."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import platformdirs
from tqdm import tqdm

from l1bn.errors import UserError

if TYPE_CHECKING:  # they are imported where they are used: slowly
    import datasets
    import PIL.Image
    from datasets import Dataset, DatasetDict, Features

Arrays = tuple[np.ndarray, np.ndarray]
"""Images (N, C, H, W) of uint8 and labels (N,)."""

_CACHE_FORMAT = 1
_TEST_NAMES = ("test", "validation", "valid", "val")
_HELD_OUT_SHARE = 0.1
_DECODE_BATCH = 256


def cache_dir() -> Path:
    """Return where decoded images are kept (``$XDG_CACHE_HOME/l1bn/images`` on Linux)."""
    return Path(platformdirs.user_cache_dir("l1bn")) / "images"


def load_hub(
    name: str,
    image_column: str | None,
    label_column: str | None,
    image_size: int | None,
    progress: bool,
) -> tuple[Arrays, Arrays, tuple[str, ...]]:
    """Load a set as arrays.

    Args:
        name: Folder, or name on the hub.
        image_column: Column of the images, None to find it.
        label_column: Column of the classes, None to find it.
        image_size: Resize to this height and width [pixels], None to keep the size.
        progress: Show a bar while decoding.

    Returns:
        The training arrays, the test arrays and the names of the classes. A set without a test
        split gives up a tenth of its training images, the same each time, stratified by class.

    Raises:
        UserError: If there is no such set, or it is no set of labelled images.
    """
    splits = _open(name, progress)
    train_name = "train" if "train" in splits else next(iter(splits))
    features = splits[train_name].features
    image = _column(name, features, "Image", image_column, "--image-column")
    label = _column(name, features, "ClassLabel", label_column, "--label-column")
    test_name = next((n for n in _TEST_NAMES if n in splits and n != train_name), None)
    train_set = splits[train_name].select_columns([image, label])
    if test_name is None:
        halves = train_set.train_test_split(
            test_size=_HELD_OUT_SHARE, seed=0, stratify_by_column=label
        )
        train_set, test_set = halves["train"], halves["test"]
    else:
        test_set = splits[test_name].select_columns([image, label])
    train, test = (
        _cached(part, image, label, image_size, f"decoding {name} {kind}", progress)
        for part, kind in ((train_set, "train"), (test_set, "test"))
    )
    if train[0].shape[1:] != test[0].shape[1:]:
        train, test = _with_three_channels(train), _with_three_channels(test)
    return train, test, tuple(features[label].names)


def _open(name: str, progress: bool) -> DatasetDict:
    """Return the splits of ``name``, or say in one line why not."""
    import datasets

    folder = Path(name).expanduser()
    is_path = folder.is_absolute() or name.startswith(".") or name.count("/") > 1
    if is_path and not folder.exists():
        raise UserError(f'expected --data to be a folder, "digits" or a hub name; no "{name}" here')
    if folder.is_file():
        raise UserError(f'expected --data to be a folder, got the file "{name}"')
    if not folder.is_dir() and progress and sys.stderr.isatty():
        print(f'looking for "{name}" on the Hugging Face hub', file=sys.stderr)
    with _quiet(bars=progress and not folder.is_dir()):
        try:
            return datasets.load_dataset(str(folder) if folder.is_dir() else name)
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            raise UserError(
                f'cannot read "{name}" with datasets.load_dataset: {text.splitlines()[0]}'
            ) from error


@contextmanager
def _quiet(bars: bool) -> Iterator[None]:
    """Keep the libraries from reporting retries and missing cards: one line says what failed."""
    import datasets
    import huggingface_hub

    loggers = (datasets.utils.logging, huggingface_hub.utils.logging)
    levels = [logger.get_verbosity() for logger in loggers]
    bars_were_on = datasets.is_progress_bar_enabled()
    for logger in loggers:
        logger.set_verbosity_error()
    if not bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
        if bars_were_on:
            datasets.enable_progress_bars()


def _column(name: str, features: Features, kind: str, wanted: str | None, option: str) -> str:
    """Return the column of type ``kind``."""
    found = [c for c, feature in features.items() if type(feature).__name__ == kind]
    listed = ", ".join(f"{c} ({type(f).__name__})" for c, f in features.items())
    if wanted is not None:
        if wanted in found:
            return wanted
        raise UserError(f'"{name}" has no {kind} column "{wanted}"; its columns: {listed}')
    if not found:
        raise UserError(f'"{name}" has no column of type {kind}; its columns: {listed}')
    if len(found) > 1:
        raise UserError(f'"{name}" has several {kind} columns; choose one with {option}: {listed}')
    return found[0]


def _cached(
    part: Dataset, image: str, label: str, size: int | None, title: str, progress: bool
) -> Arrays:
    """Return the decoded arrays of one split, from the cache when they are there."""
    key = json.dumps([_CACHE_FORMAT, part._fingerprint, len(part), image, label, size])
    folder = cache_dir() / hashlib.sha256(key.encode()).hexdigest()[:24]
    if not folder.is_dir():
        arrays = _decode(part, image, label, size, title, progress)
        _store(folder, arrays)
        return arrays
    return np.load(folder / "images.npy"), np.load(folder / "labels.npy")


def _store(folder: Path, arrays: Arrays) -> None:
    """Write the arrays under a temporary name and move them into place as one step."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
    try:
        np.save(temporary / "images.npy", arrays[0])
        np.save(temporary / "labels.npy", arrays[1])
        try:
            os.replace(temporary, folder)
        except OSError:
            if not folder.is_dir():  # else another process stored the same arrays first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _decode(
    part: Dataset, image: str, label: str, size: int | None, title: str, progress: bool
) -> Arrays:
    """Decode every image to uint8; grey images stored as RGB become one channel."""
    images: np.ndarray | None = None
    labels = np.asarray(part[:][label] if label == image else part.with_format("numpy")[label])
    if labels.size and labels.min() < 0:
        raise UserError(f"{title}: some images have no label (class -1)")
    with tqdm(total=len(part), desc=title, unit="img", disable=None if progress else True) as bar:
        row = 0
        for batch in _undecoded(part, image).iter(_DECODE_BATCH):
            for file in batch[image]:
                pixels = _pixels(_open_image(part.features[image], file, f"{title}, {row}"), size)
                if images is None:
                    images = np.empty((len(part), *pixels.shape), np.uint8)
                if pixels.shape != images.shape[1:]:
                    raise UserError(
                        f"{title}: expected images of one size, got {images.shape[1:3]} and "
                        f"{pixels.shape[:2]}; choose one with --image-size"
                    )
                images[row] = pixels
                row += 1
            bar.update(len(batch[image]))
    if images is None:
        images = np.empty((0, 1, 1, 3), np.uint8)
    if (images == images[..., :1]).all():
        images = images[..., :1]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels


def _undecoded(part: Dataset, image: str) -> Dataset:
    """Return the images as files, so that one that cannot be decoded can be named."""
    import datasets

    return part.select_columns([image]).cast_column(image, datasets.Image(decode=False))


def _open_image(feature: datasets.Image, file: dict[str, object], place: str) -> PIL.Image.Image:
    try:
        return feature.decode_example(file)
    except Exception as error:  # Pillow raises many kinds
        raise UserError(
            f"cannot read the image {file.get('path') or place}: {error or type(error).__name__}; "
            "remove or replace it"
        ) from error


def _pixels(picture: PIL.Image.Image, size: int | None) -> np.ndarray:
    """Return one image as (H, W, 3); a resized one is cropped to a centred square first."""
    from PIL import Image, ImageOps

    picture = picture.convert("RGB")
    if size is not None and picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    if pixels.shape[0] != pixels.shape[1]:
        raise UserError(
            f"expected square images, got {pixels.shape[0]}x{pixels.shape[1]} pixels; "
            "choose a size with --image-size"
        )
    return pixels


def _with_three_channels(arrays: Arrays) -> Arrays:
    """Repeat a grey channel, for a set of which only one split is grey."""
    images, labels = arrays
    return (np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images), labels
