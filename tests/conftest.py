"""Fixtures shared by every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

import torchvision_operators  # noqa: F401 - before what imports torchvision
from l1bn.ops.registry import registry

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("repeatable")


@pytest.fixture(params=registry.available())
def backend(request: pytest.FixtureRequest) -> str:
    """Name of each backend that can run here, in turn; a backend joins by registering."""
    return request.param


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
