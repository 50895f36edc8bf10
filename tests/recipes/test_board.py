"""``l1bn device``: from a checkpoint to a program that learns what Python learns."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from l1bn.cli import main
from l1bn.device.trial import run as trial
from l1bn.device.trial import targets
from l1bn.recipes.files.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint

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
    options = ["--target", "cortex-m4", "--batch", "2", "--learn", "2", "--batches", "1", "40"]
    options += ["--every", "3"]
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
    plans = {(plan["learn"], plan["batch"]): plan for plan in figures["plans"]}
    assert set(plans) == {
        (d, b) for d in ("classifier", "4", "affine", "all", "2") for b in (1, 2, 40)
    }
    assert plans["2", 2]["ram"] == figures["ram_bytes"]
    assert plans["2", 2]["macs"] == sum(row["train_macs"] for row in figures["layers"])
    assert plans["all", 2]["ram"] > plans["classifier", 2]["ram"] > 0
    assert "expected a batch of 1 to 32" in plans["all", 40]["refused"]
    earlier, last = figures["parts"]
    assert last["layers"] == "head"
    assert earlier["onward_instructions"] > earlier["alone_instructions"]
    assert earlier["alone_instructions"] > last["alone_instructions"]
    assert last["alone"] == last["onward"]
    assert "what each choice of learning layers costs" in said
    assert "of last 2 layers: one in turn" in said
    page = (out / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 4
    assert "last 2 layers" in page
    assert "of last 2 layers: 1 by gradients, all each 3 steps" in page
    choices = figures["choices"]
    ways = ["all"] * 4 + ["all", "last", "in turn", "largest"]
    assert [choice["way"] for choice in choices] == ways
    assert [c["learn"] for c in choices[:5]] == ["classifier", "4", "affine", "all", "2"]
    for choice in choices:
        assert choice["plain_instructions"] > choice["instructions"] > 0
        assert choice["flash"] > 0
        assert f"{choice['instructions']:,}" in page
    whole = choices[4]["instructions"]
    # The rows of the layers end before what follows the last of them.
    assert 0 <= whole - sum(row["train_instructions"] for row in figures["layers"]) < whole / 100
    lines = (out / "choices.csv").read_text().splitlines()
    assert len(lines) == 1 + len(choices)
    assert lines[-1].startswith(f"2,largest,1,3,{choices[-1]['ram']},{choices[-1]['flash']},")
    assert (out / "parts.csv").read_text().splitlines()[-1].startswith("head,")
    assert "network_train_part" in page


def test_a_report_needs_no_counter(run: Path, tmp_path: Path, capsys) -> None:
    _needs("host")
    options = ["--target", "host", "--batch", "2", "--no-parts", "--out", str(tmp_path)]
    assert main(["device", "report", "--network", str(run), *options]) == 0
    assert "ms at" not in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "host counts no" in page
    assert "products, step" in page
    assert "plain C" not in page
    assert page.count("data:image/svg+xml") == 3


def test_a_page_holds_the_network_and_examples(run: Path, tmp_path: Path, capsys) -> None:
    _needs("wasm")
    out = tmp_path / "shown" / "page.html"
    options = ["--learn", "all", "--examples", "3", "--batch", "4"]
    assert main(["device", "web", "--network", str(run), "--out", str(out), *options]) == 0
    assert f"KiB in {out}" in capsys.readouterr().out
    text = out.read_text()
    assert not re.findall(r"@[A-Z]+@", text)
    assert re.findall(r"(?:src|href)=\"(?!data:)", text) == []
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', text, re.DOTALL)[1])
    assert figures["shape"] == [16, 16, 1]
    known = figures["known"]
    assert [known["labels"].count(label) for label in range(10)] == [5] * 10
    assert sum(known["held"]) == 20
    assert len(base64.b64decode(known["pixels"])) == 50 * 256
    assert main(["device", "web", "--network", str(run), "--out", str(out), "--learn", "none"]) == 2
    assert "expected layers that learn, got none" in capsys.readouterr().err


@pytest.fixture(scope="module")
def ran(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], trial.Outcome]:
    """The arguments of a run of two steps, and what the device did."""
    _needs("host")
    folder = str(tmp_path_factory.mktemp("ran"))
    options = ["--out", folder, "--steps", "2", "--batch", "4", "--learn", "all"]
    outcomes = []

    def keep(*arguments: Any) -> trial.Outcome:
        outcomes.append(run_trial(*arguments))
        return outcomes[-1]

    run_trial = trial.run_trial
    command = ["device", "run", "--network", str(run), *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "run_trial", keep)
        assert main(command) == 0
    return command, outcomes[0]


def _claims(outcome: trial.Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a device that is not compiled again do this."""
    monkeypatch.setattr(trial, "compile_trial", lambda *_: None)
    monkeypatch.setattr(trial, "run_trial", lambda *_: outcome)


def test_a_run_says_that_the_integers_are_equal(ran, monkeypatch, capsys) -> None:
    command, outcome = ran
    assert len(outcome.logits) == 3
    _claims(outcome, monkeypatch)
    assert main(command) == 0
    assert "2 steps and 1 inference, every integer equal to Python's" in capsys.readouterr().out


@pytest.mark.parametrize(
    "what", ["logits of step 0", "logits of step 1", "logits of inference 0", "state"]
)
def test_one_changed_byte_is_noticed(what: str, ran, monkeypatch, capsys) -> None:
    command, outcome = ran
    logits, state = [x.copy() for x in outcome.logits], bytearray(outcome.state)
    if what == "state":
        state[len(state) // 2] ^= 1
    else:
        logits[{"step 0": 0, "step 1": 1, "inference 0": 2}[what[len("logits of ") :]]][-1] ^= 1
    _claims(dataclasses.replace(outcome, logits=logits, state=bytes(state)), monkeypatch)
    with pytest.raises(RuntimeError, match=f"host and Python disagree about {what}; please report"):
        main(command)
    assert "equal" not in capsys.readouterr().out


def test_missing_logits_are_noticed(ran, monkeypatch) -> None:
    command, outcome = ran
    _claims(dataclasses.replace(outcome, logits=outcome.logits[:-1]), monkeypatch)
    with pytest.raises(RuntimeError, match="host and Python disagree about the number of logits"):
        main(command)


def test_a_network_that_only_infers_is_compared_by_its_inference(run, tmp_path, capsys) -> None:
    _needs("host")
    options = ["--out", str(tmp_path), "--learn", "none"]
    assert main(["device", "run", "--network", str(run), *options]) == 0
    assert "0 steps and 1 inference, every integer equal to" in capsys.readouterr().out


def _edited(run: Path, folder: Path, edit: Callable[[dict[str, Any]], None]) -> list[str]:
    """Write another checkpoint, and return the arguments that build it."""
    content = load_checkpoint(run / CHECKPOINT)
    edit(content)
    save_checkpoint(folder / CHECKPOINT, {k: v for k, v in content.items() if k != "format"})
    return ["device", "build", "--network", str(folder), "--out", str(folder / "out")]


def test_an_older_checkpoint_keeps_what_it_was_trained_with(run: Path, tmp_path: Path) -> None:
    def before_the_option(content: dict[str, Any]) -> None:
        del content["config"]["int8_residual_fraction"]
        content["model"]["_extra_state"]["config"]["residual_fraction"] = 4

    assert main(_edited(run, tmp_path, before_the_option)) == 0


def test_a_checkpoint_of_another_network_gets_one_line(run, tmp_path, capsys) -> None:
    arguments = _edited(run, tmp_path, lambda c: c["config"].update(int8_sigma="pow2"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"l1bn: --network {tmp_path / CHECKPOINT}: expected a state of sigma")
    assert error.count("\n") == 1


def test_mistakes_get_one_line(run: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    here = ["device", "build", "--network", str(run), "--out", str(tmp_path / "out")]
    for arguments, text in (
        (["device", "fly"], 'no command "device fly"'),
        ([*here, "--learn", "some"], "got 'some'"),
        ([*here, "--ram", "1"], "expected to fit 1024 bytes of RAM, needs"),
        ([*here, "--steps", "0"], "--steps: expected at least 1"),
        (["device", "web", *here[2:], "--examples", "-1"], "--examples: expected at least 0"),
        (["device", "build", "--network", str(tmp_path)], "no checkpoint at"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1
    assert main(["device", "report", *here[2:], "--every", "0"]) == 2
    assert "--largest, --every: expected at least 1 block" in capsys.readouterr().err
    assert main(["device", "run", *here[2:], "--steps", "100000"]) == 2
    assert "--steps: expected at most" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["device", "web", *here[2:], "--learn", "all"]) == 2
    assert "apt-get install clang lld" in capsys.readouterr().err
    assert main(["device", "run", *here[2:], "--target", "riscv32"]) == 2
    assert "apt-get install gcc-riscv64-unknown-elf qemu-system-misc" in capsys.readouterr().err


def test_a_float_network_is_sent_to_integer_training(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "float"
    assert main(["train", "--out", str(folder), *TRAIN, *QUIET]) == 0
    assert main(["device", "build", "--network", str(folder)]) == 2
    assert "expected a network of --precision int8, got fp32" in capsys.readouterr().err
