"""L1SyncBatchNorm: two processes over gloo equal one process with the whole batch."""

from __future__ import annotations

import pathlib

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from l1bn import L1BatchNorm2d, L1SyncBatchNorm

WORLD = 2
SPLITS = {"even": (4, 4), "uneven": (7, 1), "empty": (8, 0)}


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(8, 3, 4, 4, generator=rng, dtype=torch.float64).exp()
    return x, torch.randn(8, 3, 4, 4, generator=rng, dtype=torch.float64)


def _layer(kind: type[nn.Module], **options: object) -> nn.Module:
    layer = kind(3, dtype=torch.float64, **options)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
    return layer


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD)
    results = {}
    for name, split in SPLITS.items():
        x, grad = (v.split(split)[rank] for v in _inputs())
        layer = _layer(L1SyncBatchNorm)
        x = x.clone().requires_grad_()
        y = layer(x)
        y.backward(grad)
        results[name] = {
            "y": y.detach(),
            "dx": x.grad,
            "dweight": layer.weight.grad,
            "dbias": layer.bias.grad,
            "state": layer.state_dict(),
        }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(_worker, (str(folder),), nprocs=WORLD)
    return [torch.load(pathlib.Path(folder) / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_equals_one_process(ranks: list[dict], split: str) -> None:
    x, grad = _inputs()
    x.requires_grad_()
    layer = _layer(L1BatchNorm2d)
    y = layer(x)
    y.backward(grad)
    parts = [rank[split] for rank in ranks]
    torch.testing.assert_close(torch.cat([p["y"] for p in parts]), y.detach())
    torch.testing.assert_close(torch.cat([p["dx"] for p in parts]), x.grad)
    # Each process holds its share; their sum is the gradient of the whole batch.
    torch.testing.assert_close(sum(p["dweight"] for p in parts), layer.weight.grad)
    torch.testing.assert_close(sum(p["dbias"] for p in parts), layer.bias.grad)
    for part in parts:
        torch.testing.assert_close(dict(part["state"]), dict(layer.state_dict()))


def test_without_a_group_it_is_the_ordinary_layer() -> None:
    x, _ = _inputs()
    sync, plain = _layer(L1SyncBatchNorm), _layer(L1BatchNorm2d)
    assert torch.equal(sync(x), plain(x))
    assert torch.equal(sync.eval()(x), plain.eval()(x))
    with pytest.raises(ValueError, match=r"expected at least 2D input \(got 1D input\)"):
        sync(torch.zeros(3))
