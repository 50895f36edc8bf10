from __future__ import annotations

import pathlib

import pytest
import torch

from l1bn.errors import UserError
from l1bn.recipes.files.checkpoint import load_checkpoint, save_checkpoint
from l1bn.recipes.files.writing import write_text

EMPTY: dict[str, dict[str, object]] = {
    entry: {} for entry in ("config", "shape", "model", "optimizer", "state")
}


def test_content_comes_back_without_running_code(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "new" / "last.pt"
    content = {"model": {"w": torch.arange(3)}, "config": {"lr": 0.1, "out": None}}
    save_checkpoint(path, {**EMPTY, **content})
    found = load_checkpoint(path)
    assert torch.equal(found["model"]["w"], torch.arange(3))
    assert found["config"] == {"lr": 0.1, "out": None}
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_old_checkpoint(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {**EMPTY, "state": {"step": 1}})

    def full_disk(_: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {**EMPTY, "state": {"step": 2}})
    assert load_checkpoint(path)["state"] == {"step": 1}


def test_bad_files_are_refused_and_kept(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(UserError, match=r"no checkpoint at .*last\.pt"):
        load_checkpoint(path)
    save_checkpoint(path, {**EMPTY, "state": {"step": 1}})
    half = path.read_bytes()[:200]
    path.write_bytes(half)
    with pytest.raises(UserError, match=r"last\.pt is damaged or no checkpoint .*left as it is"):
        load_checkpoint(path)
    assert path.read_bytes() == half
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="is no checkpoint of `l1bn train`"):
        load_checkpoint(path)


def test_text_is_replaced_as_a_whole(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "σ")
    write_text(path, "μ")
    assert path.read_text(encoding="utf-8") == "μ"
    assert len(list(path.parent.iterdir())) == 1
