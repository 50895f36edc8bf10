"""Recipes in several processes: torchrun on two CPU processes equals one on the joined batch."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from judge import assert_close, error
from l1bn.errors import SharedError, UserError
from l1bn.recipes.classification.run import train
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet
from l1bn.recipes.gan.adversaries import Adversaries
from l1bn.recipes.gan.config import GanConfig
from l1bn.recipes.gan.images import fit_size
from l1bn.recipes.gan.trainer import train_gan
from l1bn.recipes.machine.interrupt import Interrupted
from l1bn.recipes.machine.processes import Processes

SMALL = ["--data", "digits", "--no-progress", "--no-tensorboard", "--threads", "1"]
TRAIN = [*SMALL, "--width", "0.25", "--batch-size", "63"]


@pytest.mark.parametrize("size", [0, 1, 5, 8, 64])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_cover_everything_once_and_differ_by_one(size: int, count: int) -> None:
    parts = [range(size)[Processes(rank, count).part(size)] for rank in range(count)]
    assert [i for part in parts for i in part] == list(range(size))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_a_batch_has_an_image_for_each_process() -> None:
    Processes(0, 3).check_batch(3)
    with pytest.raises(UserError, match="batch-size of at least 3"):
        Processes(0, 3).check_batch(2)


def _steps(config: TrainConfig, data: ImageSet) -> dict[str, Any]:
    """Two steps in float64; losses over the whole batch, gradients and state."""
    trainer = Trainer(config, data)
    trainer.model.double()
    preprocess = trainer.preprocess
    trainer.preprocess = lambda images: preprocess(images).double()  # type: ignore[assignment]
    plan = trainer.plan(0)
    losses = []
    for images, labels in plan.batches(trainer.train_split):
        found, _ = trainer.step(images, labels)
        losses += trainer.processes.sum(float(found))
    loss, accuracy = trainer.evaluate(trainer.test_split)
    return {
        "losses": torch.tensor([*losses, loss, accuracy], dtype=torch.float64),
        "gradients": {n: p.grad for n, p in trainer.model.named_parameters()},
        "state": trainer.model.state_dict(),
    }


def _gan_steps(config: GanConfig, data: ImageSet) -> dict[str, Any]:
    """Two steps in float64: losses and scores over the whole batch, and both networks."""
    adversaries = Adversaries(config.filled(), fit_size(data))
    for network in adversaries.networks.values():
        network.double().register_forward_pre_hook(lambda _, given: given[0].double())
    values = [adversaries.step(number) for number in range(2)]
    state = {name: dict(n.state_dict()) for name, n in adversaries.networks.items()}
    return {"values": torch.tensor(values, dtype=torch.float64), "state": state}


def _worker(rank: int, folder: str, tasks: list[Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.save([work(*arguments) for work, *arguments in tasks], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _mistakes(kind: str) -> str:
    """What a process hears when the first, or the second, makes a mistake."""
    processes = Processes.current()

    def work() -> None:
        if processes.rank == (kind == "second"):
            raise UserError("mine")

    try:
        processes.together(work)
    except SharedError as error:
        return f"shared: {error}"
    except UserError as error:
        return str(error)
    return "nothing"


def _stopped(train: Any, config: TrainConfig | GanConfig, data: ImageSet) -> str:
    """A run of which the first process is told to stop where it first says something."""

    def say(line: str) -> None:
        assert line
        os.kill(os.getpid(), signal.SIGINT)

    try:
        train(config, data, say=say)
    except Interrupted as stop:
        return stop.where
    return "not stopped"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return TrainConfig(
        model="resnet20", width=0.25, batch_size=35, epochs=1, sync_norm=True, threads=1,
        device="cpu", channels_last=False, out=tmp_path_factory.mktemp("run") / "out",
    )  # fmt: skip


def test_two_processes_equal_one(
    config: TrainConfig, tiny: ImageSet, tmp_path: pathlib.Path
) -> None:
    gan = GanConfig(
        model="dcgan", norm="l1", batch_size=9, steps=2, width=0.125, device="cpu",
        sync_norm=True, out=tmp_path / "gan",
    )  # fmt: skip
    tasks: list[Any] = [
        (_steps, config, tiny),
        (_gan_steps, gan, tiny),
        (_mistakes, "first"),
        (_mistakes, "second"),
    ]
    mp.spawn(_worker, (str(tmp_path), tasks), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    want = _steps(config, tiny)
    for steps, *_ in ranks:
        assert_close(steps["losses"], want["losses"], "double sums")
        for kind in ("gradients", "state"):
            assert steps[kind].keys() == want[kind].keys()
            for name, value in want[kind].items():
                assert error(steps[kind][name], value.double()) <= 1e-12, name
    want_gan = _gan_steps(gan, tiny)
    for _, gans, *_ in ranks:
        assert_close(gans["values"], want_gan["values"], "double sums")
        assert_close(gans["state"], want_gan["state"], "double sums")
    assert [ranks[0][2], ranks[1][2]] == ["mine", "shared: mine"]
    assert [ranks[0][3], ranks[1][3]] == ["shared: mine", "mine"]


def test_all_stop_together_and_one_goes_on(
    config: TrainConfig, tiny: ImageSet, tmp_path: pathlib.Path
) -> None:
    config = dataclasses.replace(config, epochs=2, tensorboard=False, progress=False)
    halted = dataclasses.replace(config, out=tmp_path / "run")
    mp.spawn(_worker, (str(tmp_path), [(_stopped, train, halted, tiny)]), nprocs=2)
    where = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert where[0] == where[1] == ["epoch 2, step 1 of 2"]
    got = train(halted, tiny, resume=True).curves.rows("epochs")
    want = train(dataclasses.replace(config, out=tmp_path / "whole"), tiny).curves.rows("epochs")
    assert [row["epoch"] for row in got] == [row["epoch"] for row in want] == [1, 2]
    for one, two in zip(got, want, strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-3)


def test_all_processes_of_a_gan_stop_together(tiny: ImageSet, tmp_path: pathlib.Path) -> None:
    gan = GanConfig(
        norm="l1", batch_size=9, steps=4, sample_every=2, width=0.125, device="cpu",
        tensorboard=False, progress=False, out=tmp_path / "gan",
    )  # fmt: skip
    mp.spawn(_worker, (str(tmp_path), [(_stopped, train_gan, gan, tiny)]), nprocs=2)
    where = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert where[0] == where[1] == ["step 2 of 4"]


def run(processes: int, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Start ``l1bn`` under torchrun."""
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launch, f"--nproc-per-node={processes}", "-m", "l1bn", *arguments],
        capture_output=True, text=True, check=check, env=environment, timeout=250,
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_writes_and_complains_once(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "run"
    first = run(2, "train", *TRAIN, "--epochs", "1", "--sync-norm", "--out", str(out))
    assert first.stdout.count("test accuracy") == 1
    result = json.loads((out / "result.json").read_text())
    assert result["processes"] == 2
    again = run(2, "train", *TRAIN, "--out", str(out), check=False)
    assert again.returncode != 0
    assert again.stderr.count("already holds a run") == 1


@pytest.mark.slow
def test_torchrun_compares(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "comparison"
    options = ["--epochs", "1", "--seeds", "1", "--rounds", "2", "--out", str(out)]
    shown = run(2, "compare", *TRAIN, *options)
    assert shown.stdout.count("report:") == 1
    results = json.loads((out / "results.json").read_text())
    assert {r["norm"]: r["processes"] for r in results["runs"]} == {"l1": 2, "l2": 2}
