"""L1BatchNorm1d/2d/3d: nn.BatchNorm's semantics, checked side by side with it."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils._python_dispatch import TorchDispatchMode

import l1bn
from judge import assert_close
from l1bn import reference

PAIRS = [
    (l1bn.L1BatchNorm1d, nn.BatchNorm1d, (6, 4)),
    (l1bn.L1BatchNorm1d, nn.BatchNorm1d, (6, 4, 7)),
    (l1bn.L1BatchNorm2d, nn.BatchNorm2d, (6, 4, 5, 3)),
    (l1bn.L1BatchNorm3d, nn.BatchNorm3d, (6, 4, 2, 3, 3)),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": None},
    {"momentum": 0.5, "eps": 1e-3},
    {"affine": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
]


@pytest.mark.parametrize(("l1", "l2", "shape"), PAIRS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_state_repr_and_evaluation_are_batch_norms(l1, l2, shape, options) -> None:
    torch.manual_seed(3)
    ours, theirs = l1(4, **options), l2(4, **options)
    assert isinstance(ours, nn.modules.batchnorm._BatchNorm)
    assert ours.extra_repr() == theirs.extra_repr()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for _ in range(3):
        theirs(torch.randn(shape) * 2 + 1)
    ours.load_state_dict(theirs.state_dict())
    ours.eval(), theirs.eval()
    x = torch.randn(shape)
    if options.get("track_running_stats", True):
        assert torch.equal(ours(x), theirs(x))
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize(("l1", "l2", "shape"), PAIRS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_training_follows_the_reference(l1, l2, shape, options) -> None:
    layer = l1(4, **options)
    mean, var = torch.zeros(4).double(), torch.ones(4).double()
    weight, bias = torch.ones(4), torch.zeros(4)
    if layer.affine:
        weight, bias = torch.tensor([0.5, -1.0, 2.0, 1.0]), torch.tensor([0.0, 0.25, -3.0, 1.0])
        layer.load_state_dict({"weight": weight, "bias": bias}, strict=False)
    for step in range(1, 4):
        x = torch.randn(shape) * 3 + 1
        y, stats = reference.forward(x.double(), weight.double(), bias.double(), eps=layer.eps)
        assert_close(layer(x).double(), y, "single sums")
        factor = 1 / step if layer.momentum is None else layer.momentum
        count = x.numel() // 4
        mean, var = reference.running_update(mean, var, stats, count, factor, layer.eps)
        if layer.track_running_stats:
            assert int(layer.num_batches_tracked) == step
            assert_close(layer.running_mean.double(), mean, "single sums")
            assert_close(layer.running_var.double(), var, "single sums")
    if not layer.track_running_stats:  # evaluation uses the batch too
        layer.eval()
        assert_close(layer(x).double(), y, "single sums")


def test_evaluation_of_one_sample_and_of_a_frozen_layer() -> None:
    layer = l1bn.L1BatchNorm2d(3).eval()
    before = copy.deepcopy(layer.state_dict())
    assert layer(torch.randn(1, 3, 1, 1)).shape == (1, 3, 1, 1)
    layer(torch.randn(4, 3, 2, 2))
    torch.testing.assert_close(dict(layer.state_dict()), dict(before))


BAD = [(1, 4), (4,), (6, 5), (6, 4, 3, 3, 3, 3)]


@pytest.mark.parametrize(("l1", "l2", "shape"), PAIRS)
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_errors_have_batch_norms_words_and_leave_no_trace(l1, l2, shape, bad) -> None:
    ours, theirs = l1(4), l2(4)
    with pytest.raises((ValueError, RuntimeError)) as expected:
        theirs(torch.zeros(bad))
    with pytest.raises(ValueError) as got:  # noqa: PT011 - the text is compared
        ours(torch.zeros(bad))
    # The sentence that names what is wrong is the same; ours may go on with what to do.
    assert str(got.value).startswith(str(expected.value).split(" or input")[0])
    assert int(ours.num_batches_tracked) == 0
    assert torch.equal(ours.running_var, torch.ones(4))


@pytest.mark.parametrize(("l1", "l2", "shape"), PAIRS)
def test_evaluation_without_gradients_is_batch_norms(l1, l2, shape) -> None:
    ours, theirs = l1(4).eval(), l2(4).eval()
    for layer in (ours, theirs):
        layer.running_var.fill_(3)
        nn.init.uniform_(layer.weight, generator=torch.Generator().manual_seed(0))
    x = torch.randn(shape)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
        for bad in (torch.zeros(4, 5, *shape[2:]), x.int(), x.to(torch.float8_e5m2)):
            with pytest.raises((ValueError, TypeError), match=r"expected|Expected"):
                ours(bad)
        ours.backend = "nowhere"
        with pytest.raises(ValueError, match="got 'nowhere'"):
            ours(x)


def test_dtype_device_and_copies() -> None:
    layer = l1bn.L1BatchNorm2d(4, device="cpu", dtype=torch.float64)
    assert layer.weight.dtype == layer.running_var.dtype == torch.float64
    assert l1bn.L1BatchNorm2d(4, device="meta").weight.device.type == "meta"
    layer(torch.randn(2, 4, 3, 3).double())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(dict(twin.state_dict()), dict(layer.state_dict()))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    nn.BatchNorm2d(4).load_state_dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_low_precision_input_with_float32_parameters(dtype: torch.dtype, autocast: bool) -> None:
    layer = l1bn.L1BatchNorm2d(4)
    layer.load_state_dict({"weight": torch.rand(4) + 0.5, "bias": torch.randn(4)}, strict=False)
    x = torch.randn(8, 4, 6, 6).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        y = layer(x)
    y.float().pow(2).sum().backward()
    want, _ = reference.forward(x.detach().double(), layer.weight.double(), layer.bias.double())
    assert_close(y, want.to(dtype), "rounded")
    assert y.dtype == x.grad.dtype == dtype
    assert layer.weight.grad.dtype == torch.float32
    layer.eval()
    assert layer(x).dtype == dtype


def test_update_bn_and_conv_folding() -> None:
    conv, norm = nn.Conv2d(3, 5, 3), l1bn.L1BatchNorm2d(5)
    net = nn.Sequential(conv, norm)
    batches = [torch.randn(8, 3, 9, 9) for _ in range(4)]
    update_bn(batches, net)
    assert int(norm.num_batches_tracked) == 4
    net.eval()
    folded = nn.utils.fuse_conv_bn_eval(conv, norm)
    assert_close(folded(batches[0]), net(batches[0]), "order")


def test_export_of_an_evaluated_layer_is_batch_norm() -> None:
    layer = l1bn.L1BatchNorm2d(3).eval()
    program = torch.export.export(layer, (torch.randn(2, 3, 4, 4),))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("batch_norm" in name for name in names)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(program.module()(x), layer(x))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_full_graph_compilation_trains_alike(momentum: float | None) -> None:
    torch.manual_seed(1)
    layer = l1bn.L1BatchNorm2d(3, momentum=momentum)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = torch.randn(4, 3, 5, 5, requires_grad=True)
        z = x.detach().clone().requires_grad_()
        grad = torch.randn(4, 3, 5, 5)
        layer(x).backward(grad)
        compiled(z).backward(grad)
        assert_close(z.grad, x.grad, "single sums")
    torch.testing.assert_close(dict(twin.state_dict()), dict(layer.state_dict()))


class _NoSynchronisation(TorchDispatchMode):
    """Fails on any operation that reads a tensor's value on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a device synchronisation"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_training_step_never_waits_for_the_device(momentum: float | None) -> None:
    layer = l1bn.L1BatchNorm2d(3, momentum=momentum)
    layer.backend = "eager"
    x = torch.randn(4, 3, 5, 5)
    x[:, 1] = float("nan")
    x.requires_grad_()
    with _NoSynchronisation():
        layer(x).sum().backward()
    with pytest.raises(AssertionError, match="synchronisation"), _NoSynchronisation():
        x.sum().item()


def test_chosen_backend_is_used_and_shown() -> None:
    layer = l1bn.L1BatchNorm2d(3)
    layer.backend = "eager"
    assert "backend='eager'" in repr(layer)
    layer.backend = "nowhere"
    with pytest.raises(ValueError, match="got 'nowhere'"):
        layer(torch.randn(2, 3, 2, 2))
