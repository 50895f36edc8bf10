from __future__ import annotations

import pytest

from l1bn.recipes.classification.schedule import cosine, one_cycle


def test_cosine_falls_from_one_to_zero() -> None:
    assert cosine(0.0) == 1.0
    assert cosine(0.5) == pytest.approx(0.5)
    assert cosine(1.0) == pytest.approx(0.0)


@pytest.mark.parametrize("warmup", [0.1, 0.25, 0.5])
def test_one_cycle_rises_to_its_peak_and_falls(warmup: float) -> None:
    values = [one_cycle(i / 200, warmup) for i in range(201)]
    peak = values.index(max(values))
    assert peak == pytest.approx(200 * warmup, abs=1)
    assert max(values) == pytest.approx(1.0)
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert 0 < values[-1] < 0.001 < values[0] < 0.1


def test_one_cycle_without_warmup_starts_at_the_top() -> None:
    assert one_cycle(0.0, 0.0) == 1.0
