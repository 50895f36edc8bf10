from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from l1bn.cli import COMMANDS, main
from l1bn.doctor import speed
from l1bn.nn import L1BatchNormAct2d
from l1bn.recipes.config import CompareConfig, TrainConfig
from l1bn.recipes.continual.config import ContinualConfig
from l1bn.recipes.gan.config import GanCompareConfig, GanConfig
from l1bn.recipes.options import GROUPS

LAUNCH = [sys.executable, "-c", "import sys; from l1bn.cli import main; sys.exit(main())"]
SMALL = ["--width", "0.25", "--no-progress", "--no-tensorboard"]


def test_help_names_every_command_and_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == main(["-h"]) == 0
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name}" in out
        assert command.text in out
    code = "import sys; from l1bn.cli import main; main(['--help']); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("False\n")


@pytest.mark.parametrize("name", ["", *COMMANDS, "rtl generate", "rtl report", "device run"])
def test_every_listed_command_has_help_of_eighty_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    try:
        code = main([*name.split(), "--help"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 0, name
    out = capsys.readouterr().out
    assert f"usage: l1bn {name}" in out
    assert max(map(len, out.splitlines())) <= 80


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("l1bn 0.")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["trian"], 'no command "trian"; did you mean "train"?'),
        (["xyz"], 'no command "xyz"; commands: '),
        (["train", "--model", "resnet21"], 'got "resnet21"; did you mean "resnet20"?'),
        (["train", "--epochs", "0"], "expected --epochs to be greater than 0, got 0"),
        (["train", "--data", "/no/such"], 'expected --data to be a folder, "digits" or a hub name'),
        (["train", "--device", "abacus"], 'no device "abacus" here'),
        (["train", "--resume", "/no/such"], "no checkpoint at /no/such/last.pt"),
        (["train", "--resume"], "expected --resume FOLDER"),
        (["train", "--width", "1e9"], "expected --width to be at most 64, got 1000000000.0"),
        (["compare", "--seeds", "0"], "expected --seeds to be greater than 0, got 0"),
        (["compare", "--data", "/no/such"], "expected --data to be a folder"),
        (["gan", "--steps", "0"], "expected --steps to be greater than 0, got 0"),
        (["gan", "--penalty", "1"], "--penalty is for --model wgan-gp; dcgan has none"),
        (["gan", "--resume", "/no/such"], "no checkpoint at /no/such/last.pt"),
        (["gan", "--classifier", "/no/such"], "no checkpoint at /no/such"),
        (["gan-compare", "--seeds", "0"], "expected --seeds to be greater than 0, got 0"),
    ],
)
def test_a_mistake_gets_one_line_and_code_2(
    arguments: list[str],
    text: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("l1bn: ")
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [["train", "--nrom", "l1"], ["train", "--norm", "l3"], ["doctor", "now"]]
)
def test_a_mistyped_option_gets_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.delitem(sys.modules, "l1bn.recipes.statistics", raising=False)
    monkeypatch.delitem(sys.modules, "l1bn.recipes.classification.compare", raising=False)
    assert main(["compare"]) == 2
    assert 'needs scipy, which is not installed: pip install "l1bn[recipes]"' in (
        capsys.readouterr().err
    )


def test_the_doctor_reports_and_never_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("l1bn", "torch", "python", "backend eager", "available", "threads", "processor"):
        assert word in out


def test_the_doctor_times_the_kernels(
    backend: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend != "cpu":
        pytest.skip("it times the native kernels")
    monkeypatch.setattr("l1bn.doctor.speed._SECONDS", 0.1)
    assert main(["doctor", "--bench"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "×" in line]
    assert len(rows) == 12
    for row in rows:
        low, middle, high = (float(row[i].rstrip("×")) for i in (4, 3, 6))
        assert 0 < low <= middle <= high
        assert int(row[-1]) >= 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="would compile for minutes")
def test_the_doctor_says_why_it_compiles_no_gpu_kernels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--warm"]) == 0
    assert "no GPU kernels to compile: t" in capsys.readouterr().out
    assert main(["doctor", "--warm", "--batch", "0"]) != 0
    assert "at least one image, got --batch 0" in capsys.readouterr().err


def test_the_doctor_divides_by_the_time_of_l1bn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        speed, "_step", lambda call, *_: 1.0 if isinstance(call, L1BatchNormAct2d) else 2.0
    )
    gains = list(speed.measure(0.0))
    assert len(gains) == 12
    assert all(gain.ratios == [2.0] * 5 for gain in gains)


@pytest.mark.parametrize("command", ["train", "compare", "gan", "gan-compare"])
def test_help_has_groups_and_the_common_options_first(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    titles = ["common options", "data options", "network options", "schedule options"]
    places = [out.index(title) for title in [*titles, "device options", "output options"]]
    assert places == sorted(places)
    assert "{None}" not in out
    assert "None" not in out
    assert "--image-column STR" in out
    assert "--quiet" in out


def test_every_option_is_in_one_group() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))
    kinds = (TrainConfig, CompareConfig, GanConfig, GanCompareConfig, ContinualConfig)
    fields = {f.name for kind in kinds for f in dataclasses.fields(kind)}
    assert set(names) == fields | {"quiet"}


def test_nobody_reads_the_output() -> None:
    """As in `l1bn train --help | head -1`."""
    read, write = os.pipe()
    os.close(read)
    try:
        run = subprocess.run([*LAUNCH, "train", "--help"], stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert run.stderr == b""
    assert run.returncode == 141


def test_train_writes_into_its_folder(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "--epochs", "1", "--out", str(out), *SMALL]) == 0
    assert (out / "result.json").is_file()
    epoch, end = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"epoch 1/1  train loss \d\.\d+ accuracy \d+\.\d%  test loss \d\.\d+ accuracy \d+\.\d%  "
        r"\d+ images/s  0:00:00 left",
        epoch,
    )
    assert end.startswith("test accuracy")
    assert main(["train", "--resume", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("test accuracy")
    assert main(["train", "--epochs", "1", "--out", str(out), *SMALL]) == 2
    assert f"continue it with --resume {out}" in capsys.readouterr().err
    assert main(["train", "--resume", str(out), "--epochs", "9"]) == 2
    assert "made with epochs 1, not 9" in capsys.readouterr().err
    assert main(["train", "--resume", str(out), "--out", str(tmp_path / "other")]) == 2
    assert "leave --out out" in capsys.readouterr().err


def test_compare_shows_a_table_and_the_path_of_the_report(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--epochs", "1", "--seeds", "1", "--rounds", "2", "--out", str(out), *SMALL]
    assert main(["compare", *options]) == 0
    text = capsys.readouterr().out
    assert "L1BN" in text
    assert "test accuracy" in text
    assert text.endswith(f"report: {out / 'report.html'}\n")
    assert (out / "report.html").stat().st_size > 50_000


def test_gan_writes_into_its_folder(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["--steps", "2", "--width", "0.0625", "--no-progress", "--no-tensorboard"]
    assert main(["gan", "--out", str(out), *options]) == 0
    line, text = capsys.readouterr().out.splitlines()
    assert line.startswith("step 2/2  critic loss ")
    assert text.startswith("losses of critic and generator ")
    assert text.endswith(f"images and results in {out}")
    assert (out / "images" / "step-000002.png").is_file()
    assert main(["gan", "--out", str(out), *options]) == 2
    assert f"continue it with --resume {out}" in capsys.readouterr().err
    assert main(["gan", "--resume", str(out), "--latent", "9"]) == 2
    assert "made with latent 100, not 9" in capsys.readouterr().err
    assert main(["gan", "--resume", str(out), "--out", str(tmp_path / "other")]) == 2
    assert "leave --out out" in capsys.readouterr().err
    assert main(["train", "--resume", str(out)]) == 2
    assert "is no checkpoint of `l1bn train`" in capsys.readouterr().err


def test_gan_compare_shows_a_table_and_the_path_of_the_report(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--steps", "1", "--seeds", "1", "--width", "0.0625", "--out", str(out)]
    assert main(["gan-compare", *options, "--no-progress", "--no-tensorboard"]) == 0
    text = capsys.readouterr().out
    assert "loss of the generator" in text
    assert text.endswith(f"report: {out / 'report.html'}\n")
    assert (out / "report.html").stat().st_size > 50_000


def _start(arguments: list[str], rows: pathlib.Path) -> subprocess.Popen[str]:
    """Start a command and wait until its training has written some rows."""
    process = subprocess.Popen(
        [*LAUNCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 100
    while not rows.is_file() or rows.read_text().count("\n") < 4:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"no rows: {process.communicate()}")
        time.sleep(0.02)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_the_named_command_continues(
    signum: signal.Signals, tmp_path: pathlib.Path
) -> None:
    recipe = ["--epochs", "3", "--log-every", "1", "--batch-size", "64", *SMALL]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", *recipe, "--out", str(whole)]) == 0
    process = _start(["train", *recipe, "--out", str(parts)], parts / "steps.csv")
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, err
    assert "Traceback" not in err
    saved, command = err.strip().splitlines()[-2:]
    assert saved.startswith("stopped at epoch ")
    assert command == f"continue with: l1bn train --resume {parts}"
    assert main(command.removeprefix("continue with: l1bn ").split()) == 0
    assert (parts / "steps.csv").read_text() == (whole / "steps.csv").read_text()


@pytest.mark.slow
def test_ctrl_c_saves_a_gan_and_the_named_command_continues(tmp_path: pathlib.Path) -> None:
    recipe = ["--steps", "60", "--log-every", "1", "--width", "0.125", "--sample-every", "20"]
    recipe += ["--no-progress", "--no-tensorboard"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["gan", *recipe, "--out", str(whole)]) == 0
    process = _start(["gan", *recipe, "--out", str(parts)], parts / "steps.csv")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    command = err.strip().splitlines()[-1]
    assert command == f"continue with: l1bn gan --resume {parts}"
    assert main(command.removeprefix("continue with: l1bn ").split()) == 0
    for name in ("steps.csv", "images/step-000060.png"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_ctrl_c_during_a_comparison(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    options = ["--epochs", "2", "--seeds", "1", "--rounds", "2", "--log-every", "1", *SMALL]
    arguments = ["compare", *options, "--out", str(out)]
    process = _start(arguments, out / "runs" / "l2-seed0" / "steps.csv")
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.strip().endswith("continue with: l1bn " + " ".join(arguments))
    assert main(arguments) == 0
    assert (out / "report.html").is_file()
