"""The tables of the docs are those of results/."""

from __future__ import annotations

import json
import runpy

import pytest

import benchmarks.cpu.tables as cpu_tables
import benchmarks.device.tables as device_tables
import benchmarks.results_tables as results_tables
from benchmarks.accuracy.tables import write_csv
from benchmarks.results_tables import BLOCK, PAGES, ROOT, filled


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_what_the_results_say(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert BLOCK.search(text)
    assert filled(text, page) == text, "run python -m benchmarks.results_tables"


def test_a_changed_figure_is_put_right():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = BLOCK.search(text)
    table = found[0].replace("×", "", 1)
    assert table != found[0]
    changed = text.replace(found[0], table)
    assert filled(changed, "README.md") == text


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(results_tables, "ROOT", tmp_path)

    def make(name, runs, **others):
        folder = tmp_path / "results" / f"2026-01-02-{name}"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({"runs": runs, **others}))
        return folder

    return make


def accuracies(**arms):
    return [
        {"arm": arm, "seed": seed, "test_accuracy": value}
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]


def test_the_claim_says_where_the_mean_lies(results):
    results("resnet20", accuracies(l1=[0.90, 0.92], l2=[0.925, 0.905]))
    results("resnet18", accuracies(l1=[0.80, 0.80, 0.80], l2=[0.90, 0.90, 0.901]))
    results("integer-vgg7", accuracies(l1=[0.80, 0.90], l2=[0.79, 0.8902]))
    first, second, third = results_tables.claim("resnet20 resnet18 integer-vgg7").splitlines()[2:]
    assert "| 2 | 91.00 | 90.50 to 92.50 | yes | −0.50 (−6." in first
    assert first.endswith("| no |")
    assert "| 3 | 80.00 | 90.00 to 90.10 | no | −10.03 (−10." in second
    assert second.endswith("| yes |")
    assert third.endswith("| in pairs: +0.86 to +1.12 |")  # 0.99 by pair, seeds 10 apart


def test_conditions_are_averaged_within_a_seed(results):
    runs = {"l1-batch-4": [0.5, 0.6], "l2-batch-4": [0.4, 0.4], "l1-bf16": [0.7, 0.7]}
    runs["l2-bf16"] = [0.7, 0.9]
    results("sensitivity", accuracies(**{k.replace("_", "-"): v for k, v in runs.items()}))
    # Seed 0: +10 and 0; seed 1: +20 and -20.
    text = results_tables.together("sensitivity", "l1")
    assert text == "+2.50 (−29.27 to +34.27); by seed +5.00, +0.00"


def test_gans_have_their_last_distance_and_those_of_the_second_half(results):
    runs = [
        {"norm": norm, "seed": seed, "distance": last}
        for norm, ends in (("l1", (5.0, 7.0)), ("l2", (6.0, 6.0)))
        for seed, last in enumerate(ends)
    ]
    summary = {norm: {"distance": {"n": 2}} for norm in ("l1", "l2")}
    folder = results("cifar10-dcgan", runs, summary=summary, steps=40)
    curve = [
        {"norm": r["norm"], "seed": r["seed"], "step": step, "classifier_frechet": value}
        for r in runs
        for step, value in ((20, 90.0), (30, 10.0), (40, r["distance"]))
    ]
    write_csv(folder / "curves.csv", curve)
    last, half = results_tables.gan("cifar10-dcgan").splitlines()[2:]
    assert "| 40 | last | 2 | 6.00 ± 1.41 | 6.00 ± 0.00 | +0.00 (" in last
    assert "| 40 | second half | 2 | 8.00 ± 0.71 | 8.00 ± 0.00 |" in half


def _operators() -> list[str]:
    """Mean and worst of norm and ReLU, as the prose has them."""
    float32_nchw = cpu_tables.operators("2")[1][0]
    return [float32_nchw[2], float32_nchw[4]]


def _range(values: list[float], digits: int) -> str:
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def _steps(*networks: str) -> list[float]:
    rows = cpu_tables.networks("all")[1]
    return [float(row[3].split("×")[0]) for row in rows if row[0].startswith(networks)]


def _eager(dtype: str) -> str:
    rows = [row for threads in "12" for row in cpu_tables.eager(threads)[1]]
    return _range([float(row[1]) for row in rows if row[0].startswith(dtype)], 1)


def test_the_readme_says_what_the_tables_say() -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    mean, worst = _operators()
    assert f"**{mean} as fast** (worst {worst})" in text
    assert f"training step, ResNet-20, 2 threads | 1 | **{_steps('ResNet-20')[1]:.2f}×" in text
    avx2 = [row[2] for row in cpu_tables.isas("cpu_ops 2")[1]]
    low, high = (f"{f(float(v.split('×')[0]) for v in avx2):.1f}×" for f in (min, max))
    assert f"With the AVX2 kernels norm + ReLU is {low} to {high} as fast" in text
    assert f"{_eager('float32')} times as long as BatchNorm in float32 and" in text
    assert f"and {_eager('bfloat16')} times in bfloat16, on average" in text
    networks = {row[0] for n in ("NCHW", "channels_last") for row in cpu_tables.architectures(n)[1]}
    assert f"[{len(networks) - 1} networks of other libraries]" in text  # one row is the mean


def test_the_comparison_says_what_the_tables_say() -> None:
    text = (ROOT / "docs/compared/index.md").read_text(encoding="utf-8")
    mean, worst = _operators()
    assert f"| {mean} as fast, {worst} at worst |" in text
    steps = _steps("ResNet-18", "ResNet-50")
    assert f"| {min(steps):.2f}× to {max(steps):.2f}× as fast |" in text
    calls = {row[0]: (row[2], row[4]) for row in cpu_tables.calls("all")[1]}
    theirs, _ = calls["`nn.BatchNorm2d`"]
    for ours in calls["`L1BatchNorm2d`"]:
        assert f"| {theirs} µs | {ours} µs |" in text
    card = " ".join((ROOT / "docs/cards/fused.md").read_text(encoding="utf-8").split())
    assert f"float32 NCHW: {mean} as fast, {worst} at worst" in card


def test_devices_take_the_memory_that_is_said_of_them() -> None:
    planned = runpy.run_path(str(ROOT / "benchmarks/device/memory.py"))["memories"]()
    written = [{k: str(v) for k, v in row.items()} for row in planned]
    assert written == device_tables.read("device_memory"), (
        "run python -m benchmarks.device.memory, then python -m benchmarks.results_tables"
    )


def test_the_prose_on_devices_says_what_the_tables_say() -> None:
    pages = ("docs/integers/on_a_device.md", "docs/cards/device.md")
    page, card = (" ".join((ROOT / p).read_text(encoding="utf-8").split()) for p in pages)
    rows = device_tables.read("device_memory")
    stage = [r for r in rows if device_tables.LEARN[r["learn"]].startswith("last stage")]
    fits = {
        (float(r["momentum"]) > 0, int(r["batch"])): int(r["least_bytes"]) <= 256 * 1024
        for r in stage
    }
    assert "within 256 KiB without momentum, up to three images a step. With momentum they" in page
    assert fits == {
        (False, 1): True,
        (False, 2): True,
        (False, 3): True,
        (False, 4): False,
        (True, 1): False,
    }
    m4 = next(r for r in device_tables.read("device_targets") if r["target"] == "cortex-m4")
    ram, stack, flash = (f"{int(m4[f'{c}_bytes']):,}" for c in ("ram", "stack", "flash"))
    kinds = ("inference_instructions", "step_instructions")
    inference, step = (device_tables.millions(m4[c]) for c in kinds)
    assert (m4["batch"], m4["limit_bytes"]) == ("2", str(254 * 1024))
    assert f"Under a limit of 254 KiB, two images a step: {ram} bytes of RAM." in page
    seconds = [f"{int(m4[c]) / 100e6:.1f}" for c in kinds]
    assert f"{seconds[0]} seconds an inference and {seconds[1]} a step at 100 MHz" in page
    assert f"{ram} bytes of RAM, {stack} of stack, {flash} of flash" in card
    assert f"takes {inference} million instructions on a Cortex-M4, one step {step} million" in card
