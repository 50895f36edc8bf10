"""What the parts of the GPU benchmark compute beside times."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.gpu import bench
from benchmarks.gpu.parts import batch
from benchmarks.gpu.scale import FULL, TINY, Run


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
