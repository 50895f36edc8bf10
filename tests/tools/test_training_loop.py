"""What a training loop does around a model: AMP, averaging, loading, pruning, adapters."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import l1bn
from judge import assert_close


def loss(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return net(x).float().square().mean()


def floats(net: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items() if v.is_floating_point()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_off_by_a_few_roundings(
    bn_net: nn.Module, l1_net: nn.Module, batch: Any, dtype: torch.dtype
) -> None:
    """Of 16-bit activations in four layers; BN is held to the same."""
    x = batch()
    for net in (bn_net, l1_net):
        plain = copy.deepcopy(net)
        with torch.autocast("cpu", dtype):
            loss(net, x).backward()
        loss(plain, x).backward()
        assert all(p.grad.dtype == torch.float32 for p in net.parameters())
        assert net.bn.running_var.dtype == torch.float32
        assert_close(net.bn.running_var, plain.bn.running_var, "half sums")
        got, want = (torch.cat([p.grad.flatten() for p in n.parameters()]) for n in (net, plain))
        assert float((got - want).norm() / want.norm()) <= 8 * torch.finfo(dtype).eps


def test_a_step_that_overflows_is_skipped_and_the_statistics_survive(
    l1_net: nn.Module, batch: Any
) -> None:
    optimizer = torch.optim.SGD(l1_net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before, x = floats(l1_net), batch()
    with torch.autocast("cpu", torch.float16):
        scaled = scaler.scale(loss(l1_net, x))
    scaled.backward()
    assert not bool(l1_net.stem.weight.grad.isfinite().all())
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**39
    after = floats(l1_net)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if "running" in name}
    assert all(bool(value.isfinite().all()) for value in after.values())


def test_an_input_that_overflows_leaves_the_statistics(l1_net: nn.Module, batch: Any) -> None:
    """BN's are poisoned for good."""
    x = batch() * 1e5  # beyond float16
    before = l1_net.bn.running_var.clone()
    with torch.autocast("cpu", torch.float16):
        l1_net(x)
    assert torch.equal(l1_net.bn.running_var, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_whole_model_in_another_dtype(
    bn_net: nn.Module, l1_net: nn.Module, batch: Any, dtype: torch.dtype
) -> None:
    bn_net.to(dtype), l1_net.to(dtype)
    x = batch().to(dtype)
    with torch.no_grad():
        assert_close(l1_net.eval()(x), bn_net.eval()(x), "exact")
    l1_net.train()
    loss(l1_net, x).backward()
    assert all(p.grad.dtype == dtype for p in l1_net.parameters())
    assert l1_net.bn.running_var.dtype == dtype
    assert bool(l1_net.bn.running_var.isfinite().all())


def test_accumulated_gradients_are_the_sum(l1_net: nn.Module, batch: Any) -> None:
    net, parts = l1_net.double(), [batch().double() for _ in range(3)]
    twins = [copy.deepcopy(net) for _ in parts]
    for x, twin in zip(parts, twins, strict=True):
        loss(net, x).backward()
        loss(twin, x).backward()
    for p, *others in zip(*(n.parameters() for n in (net, *twins)), strict=True):
        assert_close(p.grad, sum(q.grad for q in others), "double")
    assert int(net.bn.num_batches_tracked) == 3 + len(parts)


@pytest.mark.parametrize("use_buffers", [True, False])
def test_averaged_weights_and_statistics(l1_net: nn.Module, batch: Any, use_buffers: bool) -> None:
    averaged = AveragedModel(
        l1_net, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=use_buffers
    )
    seen = []
    for _ in range(3):
        l1_net(batch())
        averaged.update_parameters(l1_net)
        seen.append(l1_net.bn.running_var.clone())
    want = seen[0] / 4 + seen[1] / 4 + seen[2] / 2 if use_buffers else seen[2]
    assert_close(averaged.module.bn.running_var, want, "single")
    x = batch()
    update_bn([x, x], averaged)
    assert int(averaged.module.bn.num_batches_tracked) == 2
    with torch.no_grad():
        now = averaged(x)
        assert_close(averaged.eval()(x), now, "half sums")


def test_a_state_that_is_assigned(l1_net: nn.Module, batch: Any) -> None:
    state = copy.deepcopy(l1_net.state_dict())
    with torch.device("meta"):
        empty = copy.deepcopy(l1_net).to("meta")
    empty.load_state_dict(state, assign=True)
    assert empty.bn.running_var.data_ptr() == state["bn.running_var"].data_ptr()
    x = batch()
    assert_close(empty(x), l1_net(x), "exact")
    assert_close(dict(empty.state_dict()), dict(l1_net.state_dict()), "exact")


@pytest.mark.parametrize("momentum", [0.1, None])
def test_an_old_checkpoint_without_a_counter(momentum: float | None) -> None:
    state = OrderedDict(l1bn.L1BatchNorm2d(4).state_dict())  # without metadata, as version 1
    del state["num_batches_tracked"]
    for layer in (l1bn.L1BatchNorm2d(4, momentum=momentum), nn.BatchNorm2d(4, momentum=momentum)):
        layer.load_state_dict(state)
        assert int(layer.num_batches_tracked) == 0
        layer(torch.randn(3, 4, 2, 2))
        assert int(layer.num_batches_tracked) == 1


def test_γ_parametrized_by_its_logarithm(l1_net: nn.Module, batch: Any) -> None:
    class Exponential(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.exp()

        def right_inverse(self, x: torch.Tensor) -> torch.Tensor:
            return x.log()

    plain, x = copy.deepcopy(l1_net).double(), batch().double()
    parametrize.register_parametrization(l1_net.double().bn, "weight", Exponential())
    loss(l1_net, x).backward(), loss(plain, x).backward()
    # dγ/dlog γ = γ
    want = plain.bn.weight.grad * plain.bn.weight.detach()
    assert_close(l1_net.bn.parametrizations.weight.original.grad, want, "double")
    assert_close(l1_net.bn.running_var, plain.bn.running_var, "double")


@pytest.mark.parametrize("when", ["before", "after"])
def test_pruned_γ(bn_net: nn.Module, batch: Any, when: str) -> None:
    """By torch.nn.utils.prune: the mask holds, what is pruned has no gradient."""
    net = bn_net.double()
    plain, x = copy.deepcopy(net), batch().double()
    l1bn.convert_(plain)
    if when == "after":
        l1bn.convert_(net)
    prune.random_unstructured(net.bn, "weight", amount=2)
    if when == "before":
        l1bn.convert_(net)
    kept = net.bn.weight_mask
    assert int(kept.sum()) == 2
    plain.bn.weight.data.mul_(kept)
    loss(net, x).backward(), loss(plain, x).backward()
    assert_close(net.bn.weight_orig.grad, plain.bn.weight.grad * kept, "double")
    prune.remove(net.bn, "weight")
    l1bn.revert_(net)
    assert type(net.bn) is nn.BatchNorm2d
    assert_close(net.bn.weight, plain.bn.weight, "exact")


def test_data_parallel(l1_net: nn.Module, batch: Any) -> None:
    x, twin = batch(), copy.deepcopy(l1_net)
    assert_close(nn.DataParallel(l1_net)(x), twin(x), "exact")
    assert int(l1_net.bn.num_batches_tracked) == int(twin.bn.num_batches_tracked)


@pytest.mark.parametrize("order", ["convert, wrap", "wrap, convert"])
def test_low_rank_adapters(bn_net: nn.Module, batch: Any, order: str) -> None:
    """peft: adapters on a convolution and the head, one norm trained and saved whole."""
    peft = pytest.importorskip("peft")
    net, x = bn_net, batch()
    want = bn_net.eval()(x)
    if order == "convert, wrap":
        l1bn.convert_(net)
    config = peft.LoraConfig(target_modules=["head", "conv1"], modules_to_save=["bn"], r=2)
    wrapped = peft.get_peft_model(net, config)
    if order == "wrap, convert":
        l1bn.convert_(wrapped)
    report = l1bn.check(wrapped)
    assert report
    assert len(report.l1) == 4  # the norm that is saved has a copy
    assert_close(wrapped.eval()(x), want, "order")
    loss(wrapped.train(), x).backward()
    trained = {name for name, p in wrapped.named_parameters() if p.grad is not None}
    assert {name for name in trained if "lora" not in name} == {
        f"base_model.model.bn.modules_to_save.default.{name}" for name in ("weight", "bias")
    }
    merged = wrapped.merge_and_unload()
    assert type(merged.bn) is l1bn.L1BatchNorm2d
    assert l1bn.check(merged)


def test_a_lazy_layer(batch: Any) -> None:
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    assert "run the model once, then convert" in str(l1bn.convert_(net))
    net(batch())
    assert len(l1bn.convert_(net).fused) == 1
    loss(net, batch()).backward()
    assert int(net[1].num_batches_tracked) == 2
