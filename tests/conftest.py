"""Fixtures shared by every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

import benchmarks.models.torchvision_operators  # noqa: F401 - before what imports torchvision
from l1bn.ops.cpu.backend import BACKEND
from l1bn.ops.registry import registry

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("repeatable")


#: The cpu backend as it is where its autograd node was not compiled.
_IN_PYTHON = "cpu-python"


def _backends() -> list[str]:
    available = registry.available()
    compiled = "cpu" in available and BACKEND.missing_node() is None
    return available + [_IN_PYTHON] * compiled


@pytest.fixture(params=_backends())
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of each backend that can run here, in turn; a backend joins by registering."""
    if request.param != _IN_PYTHON:
        return request.param
    monkeypatch.setattr(registry, "quick", lambda _: None)
    return "cpu"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    """Fail a test that leaves another number of threads: later tests would round otherwise."""
    before = torch.get_num_threads()
    yield
    left = torch.get_num_threads()
    torch.set_num_threads(before)
    assert left == before, f"the test found {before} threads and left {left}"


@pytest.fixture
def poisoned_allocations() -> Iterator[None]:
    """Fill memory that is allocated but not written with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=False)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    yield
    torch.use_deterministic_algorithms(False)
