"""``l1bn device``: from a checkpoint to a program that learns what Python learns."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from l1bn.cli import main
from l1bn.device import targets

TRAIN = ["--epochs", "1", "--images", "64", "--batch-size", "32", "--width", "0.25"]
QUIET = ["--no-progress", "--no-tensorboard"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "run"
    assert main(["train", "--precision", "int8", "--out", str(folder), *TRAIN, *QUIET]) == 0
    return folder


def _needs(name: str) -> None:
    if reason := targets.TARGETS[name].missing():
        pytest.skip(reason)


def test_a_folder_is_written_that_make_builds(run: Path, tmp_path: Path, capsys) -> None:
    _needs("host")
    out = tmp_path / "firmware"
    assert main(["device", "build", "--network", str(run), "--out", str(out), "--learn", "2"]) == 0
    assert "RAM" in capsys.readouterr().out
    done = subprocess.run(["make", "-C", str(out), "CFLAGS=-O0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (out / "libnetwork.a").is_file()
    text = (out / "README.md").read_text()
    assert "16 x 16 pixels of 1 numbers" in text
    assert "{" not in text


def test_a_report_counts_bytes_and_instructions(run: Path, tmp_path: Path, capsys) -> None:
    _needs("cortex-m4")
    out = tmp_path / "report"
    options = ["--target", "cortex-m4", "--steps", "1", "--batch", "2", "--learn", "1"]
    assert main(["device", "report", "--network", str(run), "--out", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert "inference:" in said
    assert "training step of 2:" in said
    figures = json.loads((out / "report.json").read_text())
    layers = {row["layer"]: row for row in figures["layers"]}
    assert layers["head"]["state"] > 0
    assert layers["stem.1"]["state"] == 0
    assert layers["stem.1"]["infer_instructions"] > layers["stem.1"]["infer_macs"]
    state = sum(row["state"] for row in figures["layers"])
    assert state <= figures["state_bytes"] <= state + 200
    assert figures["ram_bytes"] >= figures["arena_bytes"] + figures["state_bytes"]


def test_a_run_says_that_the_integers_are_equal(run: Path, tmp_path: Path, capsys) -> None:
    _needs("host")
    options = ["--out", str(tmp_path / "run"), "--steps", "2", "--batch", "4", "--learn", "all"]
    assert main(["device", "run", "--network", str(run), *options]) == 0
    assert "2 steps, every integer equal to Python's" in capsys.readouterr().out


def test_mistakes_get_one_line(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    here = ["device", "build", "--network", str(run), "--out", str(tmp_path / "out")]
    for arguments, text in (
        (["device", "fly"], 'no command "device fly"'),
        ([*here, "--learn", "some"], "got 'some'"),
        ([*here, "--ram", "1"], "expected to fit 1024 bytes of RAM, needs"),
        ([*here, "--steps", "0"], "--steps: expected at least 1"),
        ([*here, "--steps", "100000"], "--steps: expected at most"),
        (["device", "build", "--network", str(tmp_path)], "no checkpoint at"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["device", "run", *here[2:], "--target", "riscv32"]) == 2
    assert "apt-get install gcc-riscv64-unknown-elf qemu-system-misc" in capsys.readouterr().err


def test_a_float_network_is_sent_to_integer_training(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "float"
    assert main(["train", "--out", str(folder), *TRAIN, *QUIET]) == 0
    assert main(["device", "build", "--network", str(folder)]) == 2
    assert "expected a network of --precision int8, got fp32" in capsys.readouterr().err
