"""Two processes over gloo: synchronised layers, DDP, FSDP2, DTensor."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import l1bn
from judge import assert_close
from l1bn.ops.recovery import LIMIT

WORLD = 2
OUTCOMES = dict[str, Any]


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


X, RESIDUAL, GRAD = (v.exp() for v in data(3, 6, 3, 4, 4))
SPLIT = (4, 2)


def net(norm: Callable[[int], nn.Module] = l1bn.L1BatchNorm2d) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 2, 2)).double()


def outcome(module: nn.Module, y: Tensor, *inputs: Tensor) -> OUTCOMES:
    return {
        "y": y.detach(),
        "inputs": [x.grad for x in inputs],
        "parameters": {k: p.grad for k, p in module.named_parameters()},
        "state": module.state_dict(),
    }


def parts(rank: int) -> tuple[Tensor, Tensor, Tensor]:
    x, residual, grad = (v.split(SPLIT)[rank].clone() for v in (X, RESIDUAL, GRAD))
    return x.requires_grad_(), residual.requires_grad_(), grad


def with_activation(rank: int) -> OUTCOMES:
    return joined(rank, nn.ReLU)


def with_curve(rank: int) -> OUTCOMES:
    """z is computed again: by the formula, not by the passes of an activation that clips."""
    return joined(rank, nn.SiLU)


def joined(rank: int, act_layer: type[nn.Module]) -> OUTCOMES:
    x, residual, grad = parts(rank)
    layer = l1bn.L1SyncBatchNormAct2d(3, act_layer=act_layer, dtype=torch.float64)
    calls: list[str] = []
    real = dist.all_reduce

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append("all_reduce")
        return real(*args, **kwargs)

    kept: list[bool] = []

    def pack(v: Tensor) -> Tensor:
        kept.append(v.data_ptr() == x.data_ptr())
        return v

    dist.all_reduce = counted
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
            y = layer(x, residual)
        forward = len(calls)
        y.backward(grad)
    finally:
        dist.all_reduce = real
    counts = {"collectives": (forward, len(calls) - forward), "keeps_input": any(kept)}
    return outcome(layer, y, x, residual) | counts


def only_added(rank: int) -> OUTCOMES:
    """γ frozen and no gradient wanted of x: nothing but the activation's mask is kept."""
    x, residual, grad = parts(rank)
    layer = l1bn.L1SyncBatchNormAct2d(3, dtype=torch.float64)
    layer.weight.requires_grad_(False)
    saved: list[int] = []

    def pack(v: Tensor) -> Tensor:
        saved.append(v.nbytes)
        return v

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.clone):
        y = layer(x.detach(), residual)
    y.backward(grad)
    return outcome(layer, y, residual) | {"saved": sum(saved), "elements": x.numel()}


def compiled(rank: int) -> OUTCOMES:
    """One graph, in which the reductions are operators; the processes' batches differ in size."""
    results = []
    for wrap in (
        lambda layer: layer,
        lambda layer: torch.compile(layer, fullgraph=True, backend="aot_eager"),
    ):
        x, residual, grad = parts(rank)
        layer = l1bn.L1SyncBatchNormAct2d(3, dtype=torch.float64)
        y = wrap(layer)(x, residual)
        y.backward(grad)
        results.append(outcome(layer, y, x, residual))
    return {"eager": results[0], "compiled": results[1]}


def own_group(rank: int) -> OUTCOMES:
    """Each process alone in its group is the ordinary layer."""
    groups = [dist.new_group([0]), dist.new_group([1])]
    x, _, grad = parts(rank)
    layer = l1bn.L1SyncBatchNorm(3, process_group=groups[rank], dtype=torch.float64)
    y = layer(x)
    y.backward(grad)
    return outcome(layer, y, x)


def data_parallel(rank: int) -> OUTCOMES:
    model = nn.parallel.DistributedDataParallel(net(l1bn.L1SyncBatchNorm))
    y = model(X.chunk(WORLD)[rank])
    y.square().mean().backward()
    return outcome(model.module, y)


def early_end(rank: int) -> OUTCOMES:
    """A process that runs out of batches first ends all of them, and none hangs."""
    model = nn.parallel.DistributedDataParallel(net(l1bn.L1SyncBatchNorm))
    done = 0
    try:
        with model.join(throw_on_early_termination=True):
            for _ in range(1 + rank):
                model(X.chunk(WORLD)[rank]).mean().backward()
                done += 1
    except RuntimeError as error:
        return {"done": done, "error": str(error)}
    return {"done": done, "error": ""}


def sharded(rank: int) -> OUTCOMES:
    """FSDP2, built without memory, γ and β as DTensor; both compute their own statistics."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    with torch.device("meta"):
        model = net()
    fully_shard(model[1])
    fully_shard(model)
    model.to_empty(device="cpu")
    whole = net()
    for name, value in whole.state_dict().items():
        target = model.state_dict()[name]
        if isinstance(target, DTensor):
            target.to_local().copy_(value.chunk(WORLD)[rank])
        else:
            target.copy_(value)
    is_sharded = isinstance(model[1].weight, DTensor)
    y = model(X.chunk(WORLD)[rank])
    y.square().mean().backward()
    grads = {k: p.grad.full_tensor() for k, p in model.named_parameters()}
    return {
        "y": y.detach(), "parameters": grads, "sharded": is_sharded,
        "var": model[1].running_var.clone(),
    }  # fmt: skip


def mixed_precision(rank: int) -> OUTCOMES:
    """Parameters in bfloat16 while computing, buffers in float32."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model = net().float()
    fully_shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    y = model(X.float().chunk(WORLD)[rank])
    y.float().square().mean().backward()
    return {
        "dtypes": (y.dtype, model[1].running_var.dtype, model[1].weight.dtype), "y": y.detach(),
        "parameters": {k: p.grad.full_tensor() for k, p in model.named_parameters()},
        "var": model[1].running_var.clone(), "count": int(model[1].num_batches_tracked),
    }  # fmt: skip


TASKS = (
    with_activation, with_curve, only_added, compiled, own_group, data_parallel, early_end, sharded,
    mixed_precision,
)  # fmt: skip


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD)
    results = {task.__name__: task(rank) for task in TASKS}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, OUTCOMES]]:
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, (str(folder),), nprocs=WORLD)
    return [torch.load(pathlib.Path(folder) / f"{rank}.pt") for rank in range(WORLD)]


def join(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("name", "act_layer"), [("with_activation", nn.ReLU), ("with_curve", nn.SiLU)]
)
def test_activation_and_residual_equal_one_process(
    ranks: Any, name: str, act_layer: type[nn.Module]
) -> None:
    got = [rank[name] for rank in ranks]
    layer = l1bn.L1BatchNormAct2d(3, act_layer=act_layer, dtype=torch.float64)
    x, residual = X.clone().requires_grad_(), RESIDUAL.clone().requires_grad_()
    y = layer(x, residual)
    y.backward(GRAD)
    want = outcome(layer, y, x, residual)
    torch.testing.assert_close(join([g["y"] for g in got]), want["y"])
    for index in range(2):
        torch.testing.assert_close(join([g["inputs"][index] for g in got]), want["inputs"][index])
    for parameter, grad in want["parameters"].items():
        torch.testing.assert_close(sum(g["parameters"][parameter] for g in got), grad)
    for part in got:
        torch.testing.assert_close(dict(part["state"]), dict(want["state"]))


def test_what_is_only_added_keeps_a_mask(ranks: Any) -> None:
    layer = l1bn.L1BatchNormAct2d(3, dtype=torch.float64)
    residual = RESIDUAL.clone().requires_grad_()
    layer(X, residual).backward(GRAD)
    got = [rank["only_added"] for rank in ranks]
    torch.testing.assert_close(join([g["inputs"][0] for g in got]), residual.grad)
    torch.testing.assert_close(sum(g["parameters"]["bias"] for g in got), layer.bias.grad)
    for part in got:
        assert part["saved"] <= part["elements"] // 8 + 1
        torch.testing.assert_close(dict(part["state"]), dict(layer.state_dict()))


def test_compiled_in_one_graph(ranks: Any) -> None:
    for rank in ranks:
        assert_close(rank["compiled"]["compiled"], rank["compiled"]["eager"], "double")


def test_two_collectives_forward_and_one_backward(ranks: Any) -> None:
    """The deviation needs the mean of all processes first; backward needs one pair of sums."""
    for name in ("with_activation", "with_curve"):
        assert [rank[name]["collectives"] for rank in ranks] == [(2, 1)] * WORLD


def test_the_output_is_kept_where_it_tells_the_input(ranks: Any) -> None:
    """Each process decides for itself: where its residual is too large, x is lost in y."""
    wanted = [bool(parts(rank)[1].max() > LIMIT[torch.float64]) for rank in range(WORLD)]
    assert [rank["with_activation"]["keeps_input"] for rank in ranks] == wanted
    assert sorted(wanted) == [False, True]


def test_a_group_of_one_is_the_ordinary_layer(ranks: Any) -> None:
    for rank in range(WORLD):
        x, _, grad = parts(rank)
        layer = l1bn.L1BatchNorm2d(3, dtype=torch.float64)
        y = layer(x)
        y.backward(grad)
        got = ranks[rank]["own_group"]
        torch.testing.assert_close(got["y"], y.detach())
        torch.testing.assert_close(got["inputs"][0], x.grad)


def test_data_parallel_on_cpu_equals_one_process(ranks: Any) -> None:
    model = net()
    y = model(X)
    y.square().mean().backward()
    want = outcome(model, y)
    got = [rank["data_parallel"] for rank in ranks]
    assert_close(join([g["y"] for g in got]), want["y"], "double")
    for part in got:
        for name, grad in want["parameters"].items():
            assert_close(part["parameters"][name], grad, "double")
        torch.testing.assert_close(dict(part["state"]), dict(want["state"]))


def test_an_early_end_ends_all(ranks: Any) -> None:
    ends = [rank["early_end"] for rank in ranks]
    assert [end["done"] for end in ends] == [1, 1]
    assert all("exhausted" in end["error"] for end in ends)


def test_fully_sharded_equals_data_parallel(ranks: Any) -> None:
    models = [net() for _ in range(WORLD)]
    for model, x, rank in zip(models, X.chunk(WORLD), ranks, strict=True):
        y = model(x)
        y.square().mean().backward()
        torch.testing.assert_close(rank["sharded"]["y"], y.detach())
        torch.testing.assert_close(rank["sharded"]["var"], model[1].running_var)
        assert rank["sharded"]["sharded"]
    for name, grad in ranks[0]["sharded"]["parameters"].items():
        whole = sum(m.get_parameter(name).grad for m in models) / WORLD
        torch.testing.assert_close(grad, whole)


def test_fully_sharded_in_mixed_precision(ranks: Any) -> None:
    gradients: list[dict[str, Tensor]] = []
    for x, rank in zip(X.float().chunk(WORLD), ranks, strict=True):
        got = rank["mixed_precision"]
        assert got["dtypes"] == (torch.bfloat16, torch.float32, torch.float32)
        assert got["count"] == 1
        model = net().float()
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
        y = model(x.bfloat16())
        y.float().square().mean().backward()
        assert_close(got["y"], y.detach(), "rounded")
        assert_close(got["var"], model[1].running_var, "single")
        gradients.append({k: p.grad.float() for k, p in model.named_parameters()})
    for name, grad in ranks[0]["mixed_precision"]["parameters"].items():
        assert_close(grad, sum(g[name] for g in gradients) / WORLD, "half sums")
