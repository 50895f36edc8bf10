"""One model called from several threads, in forked processes, and under changing thread counts."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import l1bn
from judge import assert_close


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("training", [False, True])
def test_python_threads(l1_net: nn.Module, batch: Any, training: bool) -> None:
    l1_net.train(training)
    parameters = list(l1_net.parameters())

    def step(x: Tensor) -> list[Tensor]:
        y = l1_net(x)
        return [y.detach(), *torch.autograd.grad(y.square().mean(), parameters)]

    inputs = [batch() for _ in range(24)]
    want = [step(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(step, inputs))
    assert_close(got, want, "exact")
    assert bool(l1_net.bn.running_var.isfinite().all())
    # A counter is not locked, as BN's is not; no count may come out of nothing.
    assert int(l1_net.bn.num_batches_tracked) <= 3 + 48 * training


class Normalized(torch.utils.data.Dataset[Tensor]):
    """Images that pass through a layer in the worker that loads them."""

    def __init__(self, layer: nn.Module, images: Tensor) -> None:
        self.layer, self.images = layer, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        with torch.no_grad():
            return self.layer(self.images[index])


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
)
def test_forked_workers_after_use(threads: Callable[[int], None]) -> None:
    """As every DataLoader on Linux forks them: torch gives each worker one thread."""
    threads(2)
    layer = l1bn.L1BatchNormAct2d(8)
    images = torch.randn(4, 8, 8, 32, 32)
    layer(images[0].requires_grad_()).sum().backward()
    layer.train()
    want = [layer(x.detach()) for x in images]
    loader = DataLoader(
        Normalized(layer, images.detach()), batch_size=None, num_workers=2,
        multiprocessing_context="fork", timeout=60,
    )  # fmt: skip
    assert_close(list(loader), [x.detach() for x in want], "single")


@pytest.mark.parametrize(("forward", "backward"), [(1, 2), (2, 1), (2, 3)])
def test_another_number_of_threads_in_backward(
    forward: int, backward: int, threads: Callable[[int], None]
) -> None:
    results = []
    for counts in ((forward, backward), (1, 1)):
        torch.manual_seed(0)
        layer = l1bn.L1BatchNormAct2d(16, dtype=torch.float64)
        x, residual, grad = torch.randn(3, 32, 16, 16, 16, dtype=torch.float64)
        leaves = [x.requires_grad_(), residual.requires_grad_(), layer.weight, layer.bias]
        threads(counts[0])
        y = layer(x, residual)
        threads(counts[1])
        results.append([y.detach(), *torch.autograd.grad(y, leaves, grad)])
    assert_close(*results, "double sums")
