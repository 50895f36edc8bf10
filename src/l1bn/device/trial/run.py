"""Builds a network and images for a processor, runs them there and reads what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from l1bn import tools
from l1bn.device.program.build import Build
from l1bn.device.program.steps import EVERY
from l1bn.device.source.folder import write
from l1bn.device.source.runtime import sources
from l1bn.device.source.tables import array
from l1bn.device.trial.targets import Target
from l1bn.fixed_point.update import RATE_BITS
from l1bn.quantized import QTensor


@dataclass(frozen=True)
class Work:
    """What a device is to do.

    Attributes:
        images: int8 images of all steps, one batch after the other.
        labels: Class of each.
        rates: Learning rate of each step.
        inferences: How many of the images to classify afterwards.
        blocks: Set of the blocks that learn in each step; empty lets all learn in all.
        largest: How many blocks learn in each step, those with the largest gradients so far, which
            the step measures; 0 takes ``blocks``, and empty does in all.
    """

    images: QTensor
    labels: Tensor
    rates: Sequence[float]
    inferences: int = 1
    blocks: Sequence[int] = ()
    largest: Sequence[int] = ()

    def learning(self) -> Sequence[int]:
        """Return the set of each step.

        Raises:
            ValueError: If there are other numbers of sets and steps.
        """
        if self.blocks and len(self.blocks) != len(self.rates):
            raise ValueError(f"expected blocks for {len(self.rates)} steps, got {len(self.blocks)}")
        return self.blocks or [EVERY] * len(self.rates)

    def measuring(self) -> Sequence[int]:
        """Return of each step how many blocks learn by their gradients; 0 for none.

        Raises:
            ValueError: If there are other numbers of them and of steps.
        """
        if self.largest and len(self.largest) != len(self.rates):
            raise ValueError(
                f"expected numbers of largest blocks for {len(self.rates)} steps, got "
                f"{len(self.largest)}"
            )
        return self.largest or [0] * len(self.rates)


@dataclass(frozen=True)
class Outcome:
    """What a device did.

    Attributes:
        logits: Logits of each step's batch, then of each inference.
        state: Its state after the last step.
        instructions: Of each layer: forward and backward of one training step, forward of one
            inference; empty where the machine counts none.
        stack: Bytes of stack in use at most; 0 where unknown.
        steps: Instructions of each training step; zeros where unknown.
        chosen: Set of the blocks that learned in each training step.
    """

    logits: list[npt.NDArray[np.int32]]
    state: bytes
    instructions: dict[str, tuple[int, int, int]]
    stack: int
    steps: Sequence[int] = ()
    chosen: Sequence[int] = ()


def compile_trial(
    build: Build, work: Work, target: Target, folder: Path, flags: Sequence[str] = ()
) -> Path:
    """Write and compile a program that does the work.

    Raises:
        ToolError: If a tool is missing, or the compiler refuses.
    """
    if reason := target.missing(run=False):
        raise tools.ToolError(reason)
    write(build, folder, "network")
    (folder / "trial.h").write_text(_trial(build, work))
    ports = sources() / "ports"
    files = [*sorted(folder.glob("*.c")), *(ports / p for p in target.ports)]
    program = folder / "trial.elf"
    profile = ["-DL1BN_PROFILE"] if target.counts else []
    include = [f"-I{folder}", f"-I{ports}", *profile, *flags]
    command = target.command(files, program)
    tools.run([*command[:1], *include, *command[1:]])
    return program


def run_trial(build: Build, program: Path, target: Target, timeout: float = 600) -> Outcome:
    """Run a program and read what it writes.

    Raises:
        ToolError: If a tool is missing, or the program does not end well or in time.
    """
    if reason := target.missing():
        raise tools.ToolError(reason)
    runner = list(target.runner)
    if runner[:1] == ["node"]:
        runner.append(str(sources() / "ports" / "wasm.mjs"))
    command = [*runner, str(program.resolve())]
    return _read(build, tools.run(command, timeout=timeout).output)


def _trial(build: Build, work: Work) -> str:
    images = work.images.values.permute(0, 2, 3, 1).reshape(-1).cpu().numpy()
    steps, batch = len(work.rates), build.options.batch
    if len(work.labels) < steps * batch:
        raise ValueError(
            f"expected {steps * batch} images for {steps} steps of {batch}, got {len(work.labels)}"
        )
    rates = [round(rate * (1 << RATE_BITS)) for rate in work.rates]
    size = images.size // len(work.labels)
    figures = {
        "STEPS": f"{steps}u",
        "IMAGE": f"{size}u",
        "INFERENCES": f"{work.inferences}u",
        "LAYERS": f"{len(build.layers)}u",
    }
    lines = "".join(f"#define TRIAL_{k} {v}\n" for k, v in figures.items())
    guard = "#ifndef TRIAL_H\n#define TRIAL_H\n#include <stdint.h>\n"
    return (
        guard
        + lines
        + "\n".join(
            [
                array("int8_t", "trial_images", images),
                array("uint16_t", "trial_labels", work.labels.tolist()),
                array("uint32_t", "trial_rates", rates),
                array("uint32_t", "trial_blocks", work.learning()),
                array("uint8_t", "trial_largest", work.measuring()),
                "#endif\n",
            ]
        )
    )


def _read(build: Build, text: str) -> Outcome:
    logits: list[npt.NDArray[np.int32]] = []
    counts: dict[str, list[int]] = {}
    steps: list[int] = []
    chosen: list[int] = []
    state, stack, part = b"", 0, ""
    for title, lines in _sections(text.splitlines()):
        data = bytes.fromhex("".join(lines))
        if title == "logits":
            logits.append(np.frombuffer(data, "<i4"))
        elif title == "state":
            state = data
        elif title in ("train", "infer"):
            part = title
        elif title.startswith(("forward ", "backward ")):
            direction, number = title.split()
            counts.setdefault(f"{part} {direction}", []).append(int(number))
        elif title.startswith("step "):
            steps.append(int(title.split()[1]))
        elif title.startswith("blocks "):
            chosen.append(int(title.split()[1]))
        elif title.startswith("stack "):
            stack = int(title.split()[1])
    columns = ("train forward", "train backward", "infer forward")
    names = build.layers
    rows = zip(*(counts.get(c, [0] * len(names)) for c in columns), strict=True)
    found = dict(zip(names, rows, strict=True)) if counts else {}
    return Outcome(logits, state, found, stack, steps, chosen)


def _sections(lines: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Split the lines into titles and the hexadecimal lines that follow each."""
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if found and _is_data(found[-1][0], line):
            found[-1][1].append(line)
        else:
            found.append((line, []))
    return found


def _is_data(title: str, line: str) -> bool:
    return title in ("logits", "state") and all(c in "0123456789abcdef" for c in line)
