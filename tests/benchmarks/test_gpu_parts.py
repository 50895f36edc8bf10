"""What the parts of the GPU benchmark compute beside times."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import bench, pack
from benchmarks.gpu.parts import accuracy, batch, sanitizer
from benchmarks.gpu.parts.fast_net import Images, trained
from benchmarks.gpu.scale import FULL, TINY, Run, Schedule


@pytest.mark.parametrize("most", [0, 7, 8, 9, 100, 800])
def test_the_largest_batch_is_found_in_few_steps(most: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= most

    assert batch.largest(fits, 8) == most // 8 * 8
    assert len(tried) <= 16
    assert len(set(tried)) == len(tried)


def test_the_estimates_fit_a_quarter_of_an_hour() -> None:
    assert sum(part.seconds for part in bench.PARTS.values()) <= 900


def test_a_part_for_which_no_time_is_left_is_left_out(tmp_path: Path) -> None:
    late = Run(FULL, tmp_path, time.monotonic() + 1)
    assert bench.run_parts(["networks"], late) == []
    assert (tmp_path / "parts.csv").read_text().endswith("networks,120,,left out\n")


def test_a_part_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(bench.PARTS, "copy", bench.Part("operators.nothing", 1, "not there"))
    (tmp_path / "batch.csv").write_text(
        "gpu,network,variant,memory_mib,times_bn\n,r,BN,1,1.0\n,r,L1BN,1,1.5\n"
    )
    failed = bench.run_parts(["copy", "plots"], Run(TINY, tmp_path, time.monotonic() + 900))
    assert failed == ["copy"]
    assert "has no attribute 'nothing'" in capsys.readouterr().err
    assert (tmp_path / "batch.png").stat().st_size > 1000


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "digits.npz"
    pack.pack("digits", path)
    return path


def test_packed_images_are_the_images(digits: Path) -> None:
    data, packed = pack.load_data("digits"), pack.unpack(digits)
    assert torch.equal(packed.train_images, data.train.images)
    assert torch.equal(packed.test_labels, data.test.labels)
    assert packed.classes == 10


def test_another_file_is_no_packed_images(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, images=np.zeros(3))
    with pytest.raises(ValueError, match=r"expected the arrays train_images.*got images: pack"):
        pack.unpack(path)


def test_without_images_a_gpu_run_says_how_to_pack_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected --images FILE.npz .* uoft-cs/cifar10"):
        accuracy.measure_accuracy(Run(FULL, tmp_path, time.monotonic() + 900))


def test_a_batch_is_cut_out_of_the_padded_images(digits: Path) -> None:
    images = Images(pack.unpack(digits), "cpu", 32)
    index = torch.tensor([3, 7])

    random = torch.Generator().manual_seed(0)
    cut = images.batch(index, random, mirror=False)
    padded = torch.nn.functional.pad(images.train[index].float(), [4] * 4, mode="reflect")
    views = [
        images.normalized(padded[:, :, i : i + 16, j : j + 16])
        for i in range(9)
        for j in range(9)
    ]  # fmt: skip
    for place in range(2):
        assert any(torch.equal(cut[place], view[place]) for view in views)
    assert cut.is_contiguous(memory_format=torch.channels_last)


def test_a_seed_gives_the_same_network_again(digits: Path) -> None:
    images = Images(pack.unpack(digits), "cpu", 128)
    schedule = Schedule(width=4, epochs=1, batch=64)
    one, again = (trained(images, 10, "l1", 3, schedule, False) for _ in range(2))
    other = trained(images, 10, "l1", 4, schedule, False)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


def test_the_rate_rises_and_falls_in_lines() -> None:
    schedule = Schedule(rate=0.4)
    assert [schedule.rate_at(part) for part in (0.0, 0.1, 0.2)] == pytest.approx([0.0, 0.2, 0.4])
    assert [schedule.rate_at(part) for part in (0.6, 1.0)] == pytest.approx([0.2, 0.0])


@pytest.mark.parametrize(
    ("code", "outcome"), [(0, "clean"), (sanitizer._FOUND, "errors"), (1, "failed")]
)
def test_how_the_sanitizer_ended_is_told_with_its_summary(code: int, outcome: str) -> None:
    script = f"print('========= ERROR SUMMARY: {code} errors'); raise SystemExit({code})"
    said = outcome, f"{code} errors"
    assert sanitizer.watched([sys.executable, "-c", script], 60.0) == said


def test_a_sanitizer_that_takes_too_long_is_ended() -> None:
    script = "import time; time.sleep(60)"
    assert sanitizer.watched([sys.executable, "-c", script], 0.2) == ("no time", "")


def test_reports_fail_the_part_and_a_missing_sanitizer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(FULL, tmp_path, time.monotonic() + 900)
    monkeypatch.setattr(sanitizer, "sanitizer", lambda: None)
    sanitizer.run_sanitizer(run)
    assert (tmp_path / "sanitizer.csv").read_text().count("not installed") == len(sanitizer.TOOLS)
    program = tmp_path / "compute-sanitizer"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setattr(sanitizer, "sanitizer", lambda: str(program))
    with pytest.raises(RuntimeError, match="expected no report of compute-sanitizer"):
        sanitizer.run_sanitizer(run)
    assert (tmp_path / "sanitizer.csv").read_text().count(",errors,") == len(sanitizer.TOOLS)
