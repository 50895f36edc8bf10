from __future__ import annotations

import pathlib
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from l1bn.errors import UserError
from l1bn.recipes.data import hub, load_data


@pytest.fixture(autouse=True)
def _caches_in_tmp(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def picture(value: int, size: tuple[int, int] = (8, 8), grey: bool = True) -> Image.Image:
    pixels = np.full((*size, 3), value, np.uint8)
    pixels[0, 0] = 7
    if not grey:
        pixels[..., 2] = 200
    return Image.fromarray(pixels)


def write(folder: pathlib.Path, splits: dict[str, dict[str, list[Any]]], **features: Any) -> str:
    """Write parquet files as `datasets` and the hub have them."""
    folder.mkdir(exist_ok=True)
    kinds = {"bild": datasets.Image(), "art": datasets.ClassLabel(names=["even", "odd"])}
    kinds = {c: f for c, f in {**kinds, **features}.items() if f is not None}
    for split, columns in splits.items():
        table = datasets.Dataset.from_dict(
            {c: v for c, v in columns.items() if c in kinds}, features=datasets.Features(kinds)
        )
        table.to_parquet(str(folder / f"{split}.parquet"))
    return str(folder)


def rows(count: int, start: int = 0, **options: Any) -> dict[str, list[Any]]:
    values = range(start, start + count)
    return {"bild": [picture(v, **options) for v in values], "art": [v % 2 for v in values]}


def test_digits_are_enlarged_and_split_by_class() -> None:
    data, again = load_data("digits"), load_data("digits")
    assert data.train.images.shape == (1437, 1, 16, 16)
    assert data.test.images.shape == (360, 1, 16, 16)
    assert data.train.images.dtype == torch.uint8
    assert torch.equal(data.test.images, again.test.images)
    share = torch.bincount(data.test.labels) / torch.bincount(
        torch.cat([data.train.labels, data.test.labels])
    )
    assert share.sub(0.2).abs().max() < 0.01
    assert data.classes == tuple("0123456789")
    assert not data.mirror
    assert load_data("digits", image_size=8).image_size == 8


def test_moments_are_those_of_the_pixels() -> None:
    data = load_data("digits")
    mean, std = data.moments()
    pixels = data.train.images.double()
    assert mean.item() == pytest.approx(pixels.mean().item())
    assert std.item() == pytest.approx(pixels.std(correction=0).item())


def test_columns_are_found_by_type(tmp_path: pathlib.Path) -> None:
    name = write(tmp_path / "set", {"train": rows(6), "test": rows(4, 100)})
    data = load_data(name, progress=False)
    assert data.classes == ("even", "odd")
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.train.images[:, 0, 4, 4].tolist() == [0, 1, 2, 3, 4, 5]
    assert data.test.images[:, 0, 4, 4].tolist() == [100, 101, 102, 103]


def test_grey_stored_as_colour_becomes_one_channel(tmp_path: pathlib.Path) -> None:
    grey = write(tmp_path / "grey", {"train": rows(4), "test": rows(2)})
    colour = write(tmp_path / "colour", {"train": rows(4, grey=False), "test": rows(2, grey=False)})
    mixed = write(tmp_path / "mixed", {"train": rows(4, grey=False), "test": rows(2)})
    assert load_data(grey, progress=False).train.images.shape == (4, 1, 8, 8)
    assert load_data(colour, progress=False).train.images.shape == (4, 3, 8, 8)
    assert load_data(mixed, progress=False).test.images.shape == (2, 3, 8, 8)


def test_images_are_decoded_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write(tmp_path / "set", {"train": rows(6), "test": rows(4)})
    first = load_data(name, progress=False)
    assert hub.cache_dir().is_relative_to(tmp_path)
    monkeypatch.setattr(hub, "_decode", lambda *_: pytest.fail("decoded again"))
    second = load_data(name, progress=False)
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.labels, second.test.labels)
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        load_data(name, image_size=4, progress=False)


def test_changed_images_are_decoded_again(tmp_path: pathlib.Path) -> None:
    name = write(tmp_path / "set", {"train": rows(6), "test": rows(4)})
    load_data(name, progress=False)
    write(tmp_path / "set", {"train": rows(6, 50), "test": rows(4)})
    assert load_data(name, progress=False).train.images[0, 0, 4, 4] == 50


def test_a_failed_decode_leaves_no_cache(tmp_path: pathlib.Path) -> None:
    columns = rows(3)
    columns["bild"][2] = picture(1, (9, 9))
    name = write(tmp_path / "set", {"train": columns, "test": rows(2)})
    with pytest.raises(UserError, match=r"images of one size, got \(8, 8\) and \(9, 9\).*--image"):
        load_data(name, progress=False)
    assert not hub.cache_dir().exists() or not list(hub.cache_dir().iterdir())
    assert load_data(name, image_size=8, progress=False).train.images.shape == (3, 1, 8, 8)


def test_a_missing_test_split_is_held_out_by_class(tmp_path: pathlib.Path) -> None:
    name = write(tmp_path / "set", {"train": rows(40)})
    data, again = load_data(name, progress=False), load_data(name, progress=False)
    assert (len(data.train), len(data.test)) == (36, 4)
    assert data.test.labels.sort().values.tolist() == [0, 0, 1, 1]
    assert torch.equal(data.test.images, again.test.images)
    values = torch.cat([data.train.images, data.test.images])[:, 0, 4, 4]
    assert sorted(values.tolist()) == list(range(40))


def test_a_folder_of_image_files_works(tmp_path: pathlib.Path) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "pets" / split / label
            folder.mkdir(parents=True)
            for number in range(3):
                picture(10 * number + (label == "dog"), grey=False).save(folder / f"{number}.png")
    data = load_data(str(tmp_path / "pets"), progress=False)
    assert data.classes == ("cat", "dog")
    assert len(data.train) == len(data.test) == 6
    assert (data.train.images[:, 0, 4, 4] % 10).tolist() == data.train.labels.tolist()


def test_a_set_without_classes_is_refused(tmp_path: pathlib.Path) -> None:
    name = write(tmp_path / "set", {"train": rows(4), "test": rows(2)}, art=datasets.Value("int32"))
    with pytest.raises(
        UserError, match=r"no column of type ClassLabel; its columns: .*art \(Value\)"
    ):
        load_data(name, progress=False)


def test_several_class_columns_need_a_choice(tmp_path: pathlib.Path) -> None:
    columns = {**rows(4), "fine": [3, 1, 2, 0]}
    fine = datasets.ClassLabel(names=list("abcd"))
    name = write(tmp_path / "set", {"train": columns, "test": columns}, fine=fine)
    with pytest.raises(UserError, match="several ClassLabel columns; choose one with --label-col"):
        load_data(name, progress=False)
    data = load_data(name, label_column="fine", progress=False)
    assert data.train.labels.tolist() == [3, 1, 2, 0]
    assert data.classes == ("a", "b", "c", "d")
    with pytest.raises(UserError, match='no ClassLabel column "coarse"; its columns'):
        load_data(name, label_column="coarse", progress=False)


def test_unlabelled_images_are_refused(tmp_path: pathlib.Path) -> None:
    columns = {**rows(4), "art": [0, 1, -1, 0]}
    name = write(tmp_path / "set", {"train": rows(4), "test": columns})
    with pytest.raises(UserError, match=r"some images have no label \(class -1\)"):
        load_data(name, progress=False)


def test_oblong_images_need_a_size(tmp_path: pathlib.Path) -> None:
    name = write(tmp_path / "set", {"train": rows(4, size=(8, 6)), "test": rows(2, size=(8, 6))})
    with pytest.raises(UserError, match="expected square images, got 8x6 pixels"):
        load_data(name, progress=False)
    assert load_data(name, image_size=6, progress=False).image_size == 6


def test_wrong_paths_are_told_apart(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match='a folder, "digits" or a hub name; no "/no/such/folder"'):
        load_data("/no/such/folder")
    file = tmp_path / "file.parquet"
    file.write_text("x")
    with pytest.raises(UserError, match="to be a folder, got the file"):
        load_data(str(file))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*empty"):
        load_data(str(tmp_path / "empty"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r'cannot read "no_such_set" with datasets\.load'):
        load_data("no_such_set")
