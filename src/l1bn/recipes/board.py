"""``l1bn device``: a trained integer network on a processor without floating point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from l1bn.errors import UserError
from l1bn.tools import ToolError

if TYPE_CHECKING:
    from l1bn.device import Build, Learn
    from l1bn.device.trial.choices import Choice, Measured
    from l1bn.device.trial.run import Outcome, Work
    from l1bn.quantized import IntegerNetwork
    from l1bn.recipes.classification.integer import IntegerPreprocess
    from l1bn.recipes.data import ImageSet

_USAGE = """\
usage: l1bn device {build,run,report,web} --network CHECKPOINT [OPTIONS]

  build   write C files: the network, and the runtime that lets it learn
  run     compile it, run it on an emulated processor, compare it with Python
  report  flash, RAM, products and instructions of every layer
  web     write one page of HTML in which the network learns, in any browser

l1bn device COMMAND --help lists the options of a command."""


@dataclass(frozen=True, kw_only=True)
class BoardConfig:
    """A network trained with --precision int8, on a processor without floating point.

    Attributes:
        network: Checkpoint, or the folder of its run.
        out: Folder to write to; of web, the page.
        target: The processor.
        learn: all, classifier, affine (γ, β and biases), none, or the last so many layers.
        batch: Images of a training step, 1 to 32.
        momentum: Momentum; 0 saves two bytes of RAM a weight.
        weight_decay: Weight decay.
        lr: Learning rate of run and report.
        steps: Training steps of run.
        ram: KiB that arena and state may take; sums are computed twice where that helps.
        depths: What else might learn, for report's comparison.
        batches: Images of a step, for report's comparison.
        parts: Let report measure steps in which some layers rest: two for each that learns, and a
            round of ``every`` in which those with the largest gradients learn.
        largest: Layers that learn in a step of such a round.
        every: Steps of a round; in the first of them all learn, and are measured.
        clock: Clock for which report estimates times, one instruction a cycle [MHz].
        examples: Images of each class that web keeps, so that the network does not forget; half as
            many again test it.
    """

    network: Path
    out: Path = Path("device")
    target: Literal[
        "host",
        "cortex-m0",
        "cortex-m3",
        "cortex-m4",
        "cortex-m7",
        "cortex-m55",
        "riscv32",
        "wasm",
    ] = "host"
    learn: str = "classifier"
    batch: int = 8
    momentum: float = 0.9
    weight_decay: float = 0.0
    lr: float = 0.01
    steps: int = 5
    ram: int | None = None
    depths: tuple[str, ...] = ("classifier", "4", "affine", "all")
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    parts: bool = True
    largest: int = 1
    every: int = 8
    clock: float = 100.0
    examples: int = 16


def device_command(arguments: list[str]) -> int:
    """Run ``l1bn device``; return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    name, *rest = arguments
    if name not in ("build", "run", "report", "web"):
        raise UserError(f'no command "device {name}"; commands: build, run, report, web')
    config = tyro.cli(BoardConfig, prog=f"l1bn device {name}", args=rest)
    if config.steps < 1:
        raise UserError(f"--steps: expected at least 1, got {config.steps}")
    model, network, data = _trained(config.network)
    prepare = _preprocess(data)
    build = _planned(config, network, data, prepare)
    if name == "build":
        return _build(config, build)
    if name == "web":
        return _web(config, build, data, prepare)
    if name == "report":
        return _report(config, build, _report_work(config, build, data, prepare), model)
    work = _work(config, data, prepare, [build.blocks.all] * config.steps)
    return _say(config, build, work, _run(config, build, work))


def _preprocess(data: ImageSet) -> IntegerPreprocess:
    import torch

    from l1bn.recipes.classification.integer import IntegerPreprocess

    return IntegerPreprocess(data, torch.device("cpu"))


def _planned(
    config: BoardConfig, network: IntegerNetwork, data: ImageSet, prepare: IntegerPreprocess
) -> Build:
    """Choose what learns, and plan the memory."""
    from l1bn import device

    channels, height, width = data.train.images.shape[1:]
    try:
        device.choose(network, _learn(config.learn))
        options = device.Options(
            batch=config.batch,
            exponent=prepare.exponent,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            ram=None if config.ram is None else config.ram * 1024,
        )
        return device.build(network, (channels, height, width), options)
    except ValueError as error:
        raise UserError(f"l1bn device: {error}") from error


def _learn(text: str) -> Learn:
    return int(text) if text.isdigit() else text  # type: ignore[return-value]


def _report_work(
    config: BoardConfig, build: Build, data: ImageSet, prepare: IntegerPreprocess
) -> Work:
    """Return the steps of a report: one of all that learns, and those in which some layers rest."""
    from l1bn.device.trial.choices import Policy, with_rounds

    one = _work(config, data, prepare, [build.blocks.all])
    if not config.parts or not one.rates:
        return one
    try:
        policy = Policy(config.largest, config.every)
    except ValueError as error:
        raise UserError(f"--largest, --every: {error}") from error
    steps = with_rounds(build, one, policy)
    images = _work(config, data, prepare, steps.learning())
    return replace(steps, images=images.images, labels=images.labels)


def _work(
    config: BoardConfig, data: ImageSet, prepare: IntegerPreprocess, sets: Sequence[int]
) -> Work:
    """Return images of the network's own data for a trial."""
    from l1bn.device.trial.run import Work

    steps = sets if config.learn != "none" else []
    count = config.batch * len(sets)
    if count > len(data.train):
        raise UserError(f"--steps: expected at most {len(data.train)} images in all, got {count}")
    images = prepare(data.train.images[:count])
    return Work(images, data.train.labels[:count], [config.lr] * len(steps), 1, steps)


def _trained(place: Path) -> tuple[str, IntegerNetwork, ImageSet]:
    """Return the network of a checkpoint, with its name, and the images it was trained on."""
    from l1bn import quantized
    from l1bn.recipes.classification.integer import integer_config
    from l1bn.recipes.classification.run import load_recipe_data
    from l1bn.recipes.config import TrainConfig
    from l1bn.recipes.files.checkpoint import CHECKPOINT, load_checkpoint, load_weights
    from l1bn.recipes.files.saved import check_fields
    from l1bn.recipes.models import build_model

    path = place / CHECKPOINT if place.is_dir() else place
    saved = load_checkpoint(path)["config"]
    check_fields(path, "config", saved, TrainConfig)
    run = TrainConfig.from_saved(saved)
    if run.precision != "int8":
        raise UserError(
            f"--network {path}: expected a network of --precision int8, got {run.precision}; train "
            f"with l1bn train --precision int8 --weights {path}"
        )
    data = load_recipe_data(run)
    model = build_model(run.model, run.norm, data.spec(run.width))
    try:
        network = quantized.prepare(model, integer_config(run))
        load_weights(path, network)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--network {path}: {error}") from error
    network.start_anew()
    return run.model, network, data


def _build(config: BoardConfig, build: Build) -> int:
    from l1bn import device

    folder = device.write(build, config.out)
    print(f"{_memory(build)}; C files in {folder}")
    return 0


def _web(config: BoardConfig, build: Build, data: ImageSet, prepare: IntegerPreprocess) -> int:
    from l1bn.device.web.page import page
    from l1bn.recipes.files.writing import write_text
    from l1bn.recipes.keepsake import shown

    if config.examples < 0:
        raise UserError(f"--examples: expected at least 0, got {config.examples}")
    path = config.out if config.out.suffix == ".html" else config.out / "page.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        text = page(build, shown(data, prepare.table, config.examples), config.learn)
    except ValueError as error:
        raise UserError(f"l1bn device web: {error}") from error
    write_text(path, text)
    print(f"{_memory(build)}; {len(text) / 1024:,.0f} KiB in {path}")
    return 0


def _memory(build: Build) -> str:
    return (
        f"RAM {build.ram:,} bytes: {build.arena:,} arena, {build.layout.size:,} state; "
        f"inference alone {build.infer_memory.size:,}"
    )


def _run(config: BoardConfig, build: Build, work: Work) -> Outcome:
    from l1bn.device.trial.comparison import difference
    from l1bn.device.trial.run import compile_trial, run_trial
    from l1bn.device.trial.targets import TARGETS

    target = TARGETS[config.target]
    if reason := target.missing():
        raise ToolError(reason)
    config.out.mkdir(parents=True, exist_ok=True)
    program = compile_trial(build, work, target, config.out)
    outcome = run_trial(build, program, target)
    if found := difference(build, work, outcome):
        raise RuntimeError(
            f"{config.target} and Python disagree about {found}; please report this network"
        )
    return outcome


def _say(config: BoardConfig, build: Build, work: Work, outcome: Outcome) -> int:
    stack = f", stack {outcome.stack:,}" if outcome.stack else ""
    print(f"{_memory(build)}{stack}")
    done = f"{len(work.rates)} steps and {work.inferences} inference"
    print(f"{config.target}: {done}, every integer equal to Python's")
    return 0


def _report(config: BoardConfig, build: Build, work: Work, model: str) -> int:
    from l1bn.device.trial.choices import measure
    from l1bn.device.trial.plans import parts, plans
    from l1bn.device.trial.report import rows
    from l1bn.device.trial.targets import TARGETS
    from l1bn.recipes.report.board import BoardReport

    target = TARGETS[config.target]
    found = measure(build, work, target)
    outcome = found.outcome
    depths = [_learn(text) for text in dict.fromkeys((*config.depths, config.learn))]
    figures: dict[str, object] = {
        "model": model,
        "image": build.shape,
        "target": config.target,
        "learn": config.learn,
        "batch": config.batch,
        "momentum": config.momentum,
        "arena_bytes": build.arena,
        "state_bytes": build.layout.size,
        "ram_bytes": build.ram,
        "inference_arena_bytes": build.infer_memory.size,
        "stack_bytes": outcome.stack,
        "flash_bytes": found.flash or None,
    }
    counts = outcome.steps if any(outcome.steps) else ()
    report = BoardReport(
        figures=figures,
        rows=rows(build, outcome.instructions),
        parts=parts(build, counts) if len(work.rates) > 1 else [],
        choices=_choices(build, config, work, found),
        plans=plans(build, depths, sorted({*config.batches, config.batch})),
        clock=config.clock,
    )
    report.show()
    print(f"plots and other depths and batches in {report.write(config.out)}")
    return 0


def _choices(build: Build, config: BoardConfig, work: Work, found: Measured) -> list[Choice]:
    """Return what each choice of learning layers costs; the network learns others afterwards."""
    from l1bn import device
    from l1bn.device.trial.choices import block_choices, depth_choices, whole_choice
    from l1bn.device.trial.targets import TARGETS

    some = len(work.rates) > 1
    here = block_choices(build, config.learn, found) if some else []
    if work.rates:
        here.insert(0, whole_choice(build, config.learn, found))
    others = [_learn(text) for text in dict.fromkeys(config.depths) if text != config.learn]
    one = replace(work, rates=[config.lr])
    depths = depth_choices(build, others, one, TARGETS[config.target])
    device.choose(build.network, _learn(config.learn))
    return [*depths, *here]
