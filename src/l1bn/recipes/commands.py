"""``l1bn train``, ``l1bn compare``, ``l1bn gan`` and ``l1bn gan-compare``.

What needs torch is imported within the functions, so that help and typing errors answer at once.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from l1bn.errors import UserError
from l1bn.recipes.config import CompareConfig, TrainConfig
from l1bn.recipes.gan.config import GanCompareConfig, GanConfig
from l1bn.recipes.machine.launch import first_speaks, is_first, same_everywhere
from l1bn.recipes.options import parse_options

if TYPE_CHECKING:
    from l1bn.recipes.machine.interrupt import Interrupted

_RESUME = "--resume"
_CHECKPOINT = "last.pt"
_Config = TypeVar("_Config")

# A paragraph is a line: help breaks every text but this one.
_TRAIN = """Train one network with one norm and one seed.

Ctrl-C and SIGTERM save a checkpoint. --resume FOLDER continues the same curve.

A continued run has the saved options; add --data NEW if the images moved."""
_COMPARE = """Train with L1BN and with BatchNorm under the same seeds, and write a report.

The same command continues an interrupted comparison and repeats no run."""
_GAN = """Train one DCGAN or WGAN-GP with one norm and one seed.

Ctrl-C and SIGTERM save a checkpoint. --resume FOLDER continues the same curve.

With more --steps or --epochs it takes a finished run further."""
_GAN_COMPARE = """Train a GAN with both norms under the same seeds, and write a report.

The same command continues an interrupted comparison and repeats no run.

With more --steps or --epochs it takes finished runs further."""


@first_speaks
def train_command(arguments: list[str]) -> int:
    """Train one model; return the exit code."""
    with same_everywhere():
        folder, rest = _take_resume(arguments)
        default = TrainConfig()
        if folder is not None:
            saved = TrainConfig.from_saved(_saved(folder, "train"))
            default = dataclasses.replace(saved, out=folder)
        config, quiet = parse_options(default, "l1bn train", _TRAIN, rest)
        config = _quieter(config, quiet)
        _check_folder(folder, config.out)
        config.validate()
    from l1bn.recipes.classification.run import train
    from l1bn.recipes.files.checkpoint import RESULT
    from l1bn.recipes.machine.interrupt import Interrupted

    try:
        trainer = train(config, resume=folder is not None, say=_silent if quiet else _say)
    except Interrupted as stop:
        return _report_stop(stop, f"l1bn train --resume {shlex.quote(str(config.out))}")
    last = trainer.curves.rows("epochs")[-1]
    print(f"test accuracy {last['test_accuracy']:.2%}; results in {config.out / RESULT}")
    return 0


@first_speaks
def compare_command(arguments: list[str]) -> int:
    """Compare both norms; return the exit code."""
    with same_everywhere():
        config, quiet = parse_options(CompareConfig(), "l1bn compare", _COMPARE, arguments)
        config = _quieter(config, quiet)
        config.validate()
    from rich.console import Console

    from l1bn.recipes.classification.compare import compare
    from l1bn.recipes.machine.interrupt import Interrupted
    from l1bn.recipes.report import results_table, verdict, write_report

    console = Console(highlight=False, markup=False)
    try:
        results = compare(config, say=_silent if quiet else _say, follow=None if quiet else _say)
    except Interrupted as stop:
        return _report_stop(stop, shlex.join(["l1bn", "compare", *arguments]))
    if not is_first():
        return 0
    console.print(results_table(results))
    for sentence in verdict(results):
        console.print(f"• {sentence}")
    # Plain print: rich would break a long path over two lines.
    print(f"\nreport: {write_report(config.out).resolve()}")
    return 0


@first_speaks
def gan_command(arguments: list[str]) -> int:
    """Train one GAN; return the exit code."""
    with same_everywhere():
        folder, rest = _take_resume(arguments)
        default = GanConfig()
        if folder is not None:
            saved = GanConfig.from_saved(_saved(folder, "gan"))
            default = dataclasses.replace(saved, out=folder)
        config, quiet = parse_options(default, "l1bn gan", _GAN, rest)
        config = _quieter(config, quiet)
        _check_folder(folder, config.out)
        config.validate()
    from l1bn.recipes.gan.trainer import train_gan
    from l1bn.recipes.machine.interrupt import Interrupted

    try:
        trainer = train_gan(config, resume=folder is not None, say=_silent if quiet else _say)
    except Interrupted as stop:
        return _report_stop(stop, f"l1bn gan --resume {shlex.quote(str(config.out))}")
    print(f"{trainer.summary()}; images and results in {config.out}")
    return 0


@first_speaks
def gan_compare_command(arguments: list[str]) -> int:
    """Compare GANs with both norms; return the exit code."""
    with same_everywhere():
        config, quiet = parse_options(
            GanCompareConfig(), "l1bn gan-compare", _GAN_COMPARE, arguments
        )
        config = _quieter(config, quiet)
        config.validate()
    from rich.console import Console

    from l1bn.recipes.gan.compare import compare_gans
    from l1bn.recipes.gan.report import gan_table, gan_verdict, write_gan_report
    from l1bn.recipes.machine.interrupt import Interrupted

    console = Console(highlight=False, markup=False)
    try:
        results = compare_gans(
            config, say=_silent if quiet else _say, follow=None if quiet else _say
        )
    except Interrupted as stop:
        return _report_stop(stop, shlex.join(["l1bn", "gan-compare", *arguments]))
    if not is_first():
        return 0
    console.print(gan_table(results))
    for sentence in gan_verdict(results):
        console.print(f"• {sentence}")
    # Plain print: rich would break a long path over two lines.
    print(f"\nreport: {write_gan_report(config.out).resolve()}")
    return 0


def _quieter(config: _Config, quiet: bool) -> _Config:
    """Return the configuration without bars if the command is to be quiet."""
    return dataclasses.replace(config, progress=False) if quiet else config  # type: ignore[type-var]


def _say(line: str) -> None:
    """Print a line that stays, above any bar, at once."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def _silent(line: str) -> None:
    del line


def _report_stop(stop: Interrupted, command: str) -> int:
    if is_first():
        print(f"{stop}\ncontinue with: {command}", file=sys.stderr)
    return 128 + stop.signum


def _take_resume(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Take ``--resume FOLDER`` out of the arguments: the folder decides the other defaults."""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name != _RESUME:
            continue
        rest = arguments[:index] + arguments[index + (1 if equals else 2) :]
        if not equals:
            value = arguments[index + 1] if index + 1 < len(arguments) else ""
        if not value or value.startswith("-"):
            raise UserError("expected --resume FOLDER, the folder of an earlier run")
        path = Path(value)
        return (path.parent if path.name == _CHECKPOINT else path), rest
    return None, arguments


def _saved(folder: Path, command: str) -> dict[str, object]:
    from l1bn.recipes.files.checkpoint import load_checkpoint
    from l1bn.recipes.files.saved import check_fields

    path = folder / _CHECKPOINT
    saved = load_checkpoint(path, command)["config"]
    check_fields(path, "config", saved, TrainConfig if command == "train" else GanConfig)
    return saved


def _check_folder(folder: Path | None, out: Path) -> None:
    if folder is not None and out != folder:
        raise UserError(f"--resume {folder} continues in that folder; leave --out out")
