"""Files that were damaged, cut, made by hand or made elsewhere: refused by a line, never used."""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from l1bn.errors import UserError
from l1bn.recipes.classification.run import make_trainer, train
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet, Split, load_data
from l1bn.recipes.files.checkpoint import load_checkpoint, save_checkpoint
from l1bn.recipes.files.curves import saved_rows
from l1bn.recipes.files.lock import LOCK, own_folder
from l1bn.recipes.files.saved import check_optimizer
from l1bn.recipes.files.writing import write_bytes, write_json

Recipe = Callable[..., TrainConfig]


@pytest.fixture
def finished(recipe: Recipe, tiny: ImageSet) -> TrainConfig:
    config = recipe(epochs=2)
    train(config, tiny)
    return config


def flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key in value for k, v in flat(value[key], f"{name}.{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, e in enumerate(value) for k, v in flat(e, f"{name}.{i}").items()}
    return {name: value.tolist() if isinstance(value, torch.Tensor) else value}


def test_a_flipped_bit_is_refused_or_changes_nothing(finished: TrainConfig) -> None:
    path = finished.out / "last.pt"
    whole, expected = path.read_bytes(), flat(load_checkpoint(path))
    draw, refused = random.Random(0), 0
    for _ in range(150):
        place = draw.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            assert flat(load_checkpoint(path)) == expected, place
        except UserError:
            refused += 1
    assert refused > 100


CHANGES: list[tuple[str, Any, str]] = [
    ("model", None, 'expected an entry "model", got none'),
    ("optimizer", 3, "expected optimizer to be a dict, got int"),
    ("model.head.bias", None, r"expected model\.head\.bias to be a tensor, got none"),
    ("model.head.bias", torch.zeros(4), r"model\.head\.bias to be a tensor of \(3,\).*got \(4,\)"),
    ("model.extra", torch.zeros(4), r"model\.extra to be no such entry"),
    ("model.stem.1.running_var", torch.full((4,), float("nan")), r"finite numbers in model\.stem"),
    ("model.stem.1.running_var", torch.full((4,), -1.0), r"running_var to be nothing below 0"),
    ("optimizer.state.0.momentum_buffer", torch.zeros(1), r"state\.0\.momentum_buffer to be a ten"),
    ("optimizer.state.0.momentum_buffer", "x", "momentum_buffer to be a tensor"),
    ("optimizer.state.0.momentum_buffer", torch.zeros(1).to_sparse(), "a dense tensor on the CPU"),
    (
        "model.head.bias",
        torch.zeros(3, device="meta"),
        r"dense tensor on the CPU, got torch\.strided on meta",
    ),
    ("optimizer.state.0", None, r"optimizer\.state to be \d+ entries, got \d+"),
    ("state.batch", 10**6, r"expected state\.batch of 0 to 3, got 1000000"),
    ("state.epoch", -1, r"expected state\.epoch of 0 to 2, got -1"),
    ("state.epoch", 1, r"expected curves\.epochs up to step 3, got more"),
    ("state.loss_sum", "1", r"expected state\.loss_sum to be float, got '1'"),
    ("config.seed", 7, "made with seed 7, not 0"),
    ("config.lr", "fast", r"expected config\.lr to be float, got 'fast'"),
    ("config.width", 1e9, r"made with width 1000000000.0, not 0.25"),
    ("config.novelty", 1, r"unknown entry config\.novelty; it may be of a newer version"),
    ("curves.epochs", {"columns": ["x"], "rows": []}, r"curves\.epochs is no table of epoch"),
    ("data.test images", 5, "made with 5 test images, not 24"),
    ("data", [], "expected data to be a fingerprint"),
]


# torch 2.14 says that it looks at a sparse tensor.
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(("entry", "value", "text"), CHANGES, ids=[c[0] for c in CHANGES])
def test_what_does_not_fit_is_named(
    entry: str, value: Any, text: str, finished: TrainConfig, tiny: ImageSet
) -> None:
    path = finished.out / "last.pt"
    content = load_checkpoint(path)
    place: Any = content
    names = entry.split(".", 1) if entry.startswith("model.") else entry.split(".")
    for name in names[:-1]:
        place = place[int(name) if name.isdigit() else name]
    last: Any = int(names[-1]) if names[-1].isdigit() else names[-1]
    if value is None:
        del place[last]
    else:
        place[last] = value
    save_checkpoint(path, {k: v for k, v in content.items() if k != "format"})
    before = path.read_bytes()
    with pytest.raises(UserError, match=text) as error:
        train(finished, tiny, resume=True)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before


def test_a_checkpoint_of_an_older_version_goes_on(
    recipe: Recipe, tiny: ImageSet, finished: TrainConfig
) -> None:
    """It has neither curves nor a fingerprint: the curve is in the CSV files."""
    path, curve = finished.out / "last.pt", finished.out / "epochs.csv"
    content = load_checkpoint(path)
    old = {k: v for k, v in content.items() if k not in ("format", "curves", "data")}
    save_checkpoint(path, old)
    text = curve.read_text()
    train(finished, tiny, resume=True)
    assert curve.read_text() == text
    for damaged in ("", text[:-5] + "x\n", text.splitlines()[0]):
        save_checkpoint(path, old)
        curve.write_text(damaged)
        with pytest.raises(UserError, match=r"epochs\.csv"):
            train(finished, tiny, resume=True)


def test_torn_curves_are_written_anew(finished: TrainConfig, tiny: ImageSet) -> None:
    files = {n: (finished.out / n).read_bytes() for n in ("epochs.csv", "steps.csv")}
    rows = saved_rows(finished.out, "epochs")
    for damage in (b"", files["epochs.csv"][:-9], None):
        for name in files:
            if damage is None:
                (finished.out / name).unlink()
            else:
                (finished.out / name).write_bytes(damage)
        assert saved_rows(finished.out, "epochs") == rows
        train(finished, tiny, resume=True)
        assert {n: (finished.out / n).read_bytes() for n in files} == files


def test_a_moved_folder_goes_on_and_other_images_do_not(
    finished: TrainConfig, tiny: ImageSet
) -> None:
    moved = replace(finished, data="elsewhere")
    train(moved, tiny, resume=True)
    fewer = ImageSet("t", Split(tiny.train.images[:48], tiny.train.labels[:48]), tiny.test, "abc")
    with pytest.raises(UserError, match="made with 72 training images, not 48"):
        train(finished, fewer, resume=True)
    images = tiny.train.images.clone()
    images[5, 0, 2, 2] ^= 1
    other = replace(tiny, train=Split(images, tiny.train.labels))
    with pytest.raises(UserError, match="other images or labels under the same names"):
        train(finished, other, resume=True)
    with pytest.raises(UserError, match="made with the classes dark, bright, upright"):
        train(finished, replace(tiny, classes=("a", "b", "c")), resume=True)


def test_json_is_always_json(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": [float("nan"), 1.0], "b": float("inf"), "c": (1, "σ")})
    assert json.loads(path.read_text()) == {"a": [None, 1.0], "b": None, "c": [1, "σ"]}


def test_a_test_loss_that_is_not_finite_is_divergence(recipe: Recipe, tiny: ImageSet) -> None:
    trainer = make_trainer(recipe(epochs=1), tiny)
    trainer.evaluate = lambda split: (float("nan"), 0.1)  # type: ignore[method-assign]
    recipe().out.mkdir()
    with pytest.raises(UserError, match="the test loss is nan after epoch 1: training diverged"):
        trainer.fit()


LIMITED = """
import pathlib, resource, signal, sys
from l1bn.errors import UserError
from l1bn.recipes.files.writing import write_bytes
path = pathlib.Path(sys.argv[1])
write_bytes(path, b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(path, bytes(100_000))
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "last.pt"
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith(f"cannot write {path}: File too large; 0.1 MB needed, ")
    assert run.stdout.count("\n") == 1
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_is_one_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "last.pt.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device; 0.0 MB needed"):
        write_bytes(tmp_path / "last.pt", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_one_line(recipe: Recipe, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"expected --out to be a folder, but {tmp_path}/file"):
            train(recipe(out=out, data="/no/such/folder"))  # before the images are looked for
    assert (tmp_path / "file").read_text() == "x"


def test_one_process_has_the_folder(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "a" / "run"
    code = (
        "import sys, time, pathlib\n"
        "from l1bn.recipes.files.lock import own_folder\n"
        "with own_folder(pathlib.Path(sys.argv[1])):\n"
        "    print('mine', flush=True); time.sleep(100)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "mine\n"
    with pytest.raises(UserError, match=rf"is in use by process {owner.pid} "), own_folder(folder):
        pass
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    with own_folder(folder):
        assert (folder / LOCK).exists()
        with pytest.raises(UserError, match=f"process {os.getpid()} "), own_folder(folder):
            pass
    assert list(folder.iterdir()) == []
    fresh = tmp_path / "b" / "run"
    with own_folder(fresh):
        pass
    assert not (tmp_path / "b").exists()  # a run that left nothing leaves no folder


def test_a_broken_image_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8), (number, 9, 9)).save(folder / f"{number}.png")
    broken = tmp_path / "set" / "train" / "b" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(UserError, match=rf"cannot read the image .*{broken}: ") as error:
        load_data(str(tmp_path / "set"), progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layout", ["expanded", "other strides"])
def test_momentum_is_laid_out_as_its_parameter(layout: str) -> None:
    """A fused step takes the parameter's strides for granted: others were read past their end."""
    weight = torch.nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True)
    value = torch.zeros(1).expand(weight.shape)
    if layout != "expanded":
        value = torch.arange(weight.numel(), dtype=torch.float32).view(weight.shape)
    saved = optimizer.state_dict() | {"state": {0: {"momentum_buffer": value}}}
    state = check_optimizer(pathlib.Path("last.pt"), "optimizer", saved, optimizer, 1)["state"]
    found = state[0]["momentum_buffer"]
    assert found.stride() == weight.stride()
    assert torch.equal(found, value)


def test_a_config_that_was_edited_is_refused(finished: TrainConfig) -> None:
    """Resumed by its folder alone, a run is what its checkpoint says."""
    path = finished.out / "last.pt"
    content = torch.load(path, weights_only=True)
    content["config"]["seed"] = 7
    torch.save(content, path)
    with pytest.raises(UserError, match="expected the config that the run was made with"):
        load_checkpoint(path)
