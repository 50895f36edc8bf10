"""What a user installs: a wheel with the kernels, and a package without them."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from l1bn.ops.cpu import node
from l1bn.ops.cpu.kernels import NATIVE

ROOT = Path(__file__).parents[2]
BUILD_TOOLS = ("cmake", "ninja", "make")

TRAIN_A_STEP = """
import sys, warnings
import torch
from torch import nn
import l1bn
from l1bn.ops.registry import registry

expected = sys.argv[1]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    l1bn.convert_(model, example=torch.randn(2, 3, 8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        loss = model(torch.randn(4, 3, 8, 8)).square().mean()
        loss.backward()
        optimizer.step()
    if expected == "cpu":
        model[1].backend = "cpu"
        model(torch.randn(4, 3, 8, 8)).sum().backward()
said = [w for w in caught if "native CPU kernels" in str(w.message)]
assert torch.isfinite(loss) and model[1].weight.grad.abs().sum() > 0
assert registry.available()[0] == expected, registry.available()
print(l1bn.__file__, len(said))
"""


def closure(name: str) -> set[str]:
    """The distributions that a distribution needs, without extras."""
    found, open_ = set(), [name]
    while open_:
        for text in importlib.metadata.requires(open_.pop()) or []:
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            if requirement.name.lower() not in found:
                found.add(requirement.name.lower())
                open_.append(requirement.name)
    return found


def build(folder: Path, *definitions: str, env: dict[str, str] | None = None) -> Path:
    """Build a wheel of this checkout with the tools that are installed."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "-w", str(folder)]
    settings = [f"build-dir={folder / 'build'}", *(f"cmake.define.{d}" for d in definitions)]
    command += [f"--config-settings={setting}" for setting in settings]  # of any pip
    subprocess.run([*command, str(ROOT)], check=True, env=env)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def install(tmp_path_factory):
    """Install a wheel beside links to its dependencies; return how to run Python on them."""
    dependencies = tmp_path_factory.mktemp("dependencies")
    for name in closure("l1bn"):
        for file in importlib.metadata.files(name) or []:
            top = file.parts[0]
            source = Path(importlib.metadata.distribution(name).locate_file(top))
            if top not in ("..", "__pycache__") and not (dependencies / top).exists():
                (dependencies / top).symlink_to(source)

    def put(wheel: Path, folder: Path):
        target = folder / "site"
        with zipfile.ZipFile(wheel) as file:
            file.extractall(target)
        for link in dependencies.iterdir():
            (target / link.name).symlink_to(link.resolve())
        tools = folder / "no-tools"
        tools.mkdir()

        def run(*arguments: str) -> str:
            # -S: without this environment's packages; PATH: without a compiler.
            command = [sys.executable, "-S", *arguments]
            environment = {"PATH": str(tools), "PYTHONPATH": str(target), "HOME": str(folder)}
            done = subprocess.run(
                command, env=environment, cwd=folder, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        return run

    return put


def test_the_wheel_serves_every_python_and_trains_without_a_compiler(install, tmp_path):
    if isinstance(NATIVE, str):
        pytest.skip(f"nothing to put into a wheel: {NATIVE}")
    wheel = build(tmp_path, f"L1BN_PREBUILT={NATIVE.path}")
    assert "-py3-none-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert "l1bn/ops/native/libl1bn.so" in names
    assert {"l1bn/device/csrc/run.c", "l1bn/device/csrc/ports/trial.c"} <= set(names)
    sources = ROOT / "src"
    page = {str(f.relative_to(sources)) for f in (sources / "l1bn/device/web").rglob("*.[hcj]*")}
    assert page > {"l1bn/device/web/page.html", "l1bn/device/web/page.css"}
    assert page <= set(names)
    assert not [n for n in names if not n.startswith(("l1bn/", "l1bn-"))]
    run = install(wheel, tmp_path)
    where, said = run("-c", TRAIN_A_STEP, "cpu").split()
    assert Path(where).is_relative_to(tmp_path)
    assert said == "0"
    assert "cpu" in run("-m", "l1bn.cli", "doctor")
    # `l1bn build` finds the sources of the autograd node, and they are those of the checkout.
    place = run("-c", "from l1bn.ops.cpu import node; print(node.place())")
    assert Path(place.strip()).name == node.place().name


def test_without_a_compiler_it_installs_and_says_once_that_eager_runs(install, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in BUILD_TOOLS:
        found = shutil.which(name)
        if found:
            (tools / name).symlink_to(found)
    environment = {k: v for k, v in os.environ.items() if k not in ("CXX", "CC")}
    environment["PATH"] = str(tools)
    wheel = build(tmp_path, "CMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF", env=environment)
    assert "l1bn/ops/native/libl1bn.so" not in zipfile.ZipFile(wheel).namelist()
    run = install(wheel, tmp_path)
    assert run("-c", TRAIN_A_STEP, "eager").split()[1] == "1"
