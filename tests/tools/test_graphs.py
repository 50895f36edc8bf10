"""What records, compiles or transforms a model: TorchScript, ONNX, torch.fx, torch.func."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.utils.checkpoint import checkpoint

import l1bn
from judge import assert_close

OPTIONS: list[dict[str, Any]] = [
    {}, {"momentum": None}, {"affine": False}, {"track_running_stats": False},
]  # fmt: skip


def assert_same_state(one: nn.Module, other: nn.Module, kind: str) -> None:
    assert_close(dict(one.state_dict()), dict(other.state_dict()), kind)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("how", ["trace", "script"])
def test_torchscript_saved_and_loaded(
    l1_net: nn.Module, batch: Any, how: str, training: bool
) -> None:
    l1_net.train(training)
    twin = copy.deepcopy(l1_net)
    if how == "trace":
        made = torch.jit.trace(twin, batch()[:4], check_trace=False)
    else:
        made = torch.jit.script(twin)
    file = io.BytesIO()
    torch.jit.save(made, file)
    file.seek(0)
    made = torch.jit.load(file)
    made.load_state_dict(l1_net.state_dict())
    for _ in range(2):
        x = batch()
        assert_close(made(x), l1_net(x), "order")
    assert_same_state(made, l1_net, "order")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_scripted_layer(options: dict[str, Any], training: bool) -> None:
    layer = l1bn.L1BatchNorm2d(3, **options).train(training)
    made = torch.jit.script(copy.deepcopy(layer))
    for _ in range(3):
        x = (torch.randn(4, 3, 5, 5) * 2 + 1).requires_grad_()
        z = x.detach().clone().requires_grad_()
        g = torch.randn_like(x)
        layer(x).backward(g), made(z).backward(g)
        assert_close(z.grad, x.grad, "order")
    assert_same_state(made, layer, "order")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [("1d", (6, 3)), ("1d", (6, 3, 5)), ("3d", (2, 3, 2, 4, 3)), ("Sync", (6, 3, 5))],
)
def test_scripted_layers_of_other_dimensions(
    kind: str, shape: tuple[int, ...], training: bool
) -> None:
    name = "L1SyncBatchNorm" if kind == "Sync" else f"L1BatchNorm{kind}"
    layer = getattr(l1bn, name)(3).train(training)
    made = torch.jit.script(copy.deepcopy(layer))
    x = torch.randn(shape)
    assert_close(made(x), layer(x), "order")
    assert_same_state(made, layer, "order")


def test_scripted_layer_with_an_activation() -> None:
    layer = l1bn.L1BatchNormAct2d(3)
    x, residual = torch.randn(2, 4, 3, 5, 5)
    made = torch.jit.script(copy.deepcopy(layer))
    torch.testing.assert_close(made(x, residual), layer(x, residual))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("kind", ["eval", "untracked", "training"])
def test_onnx_equals_in_onnxruntime(batch: Any, kind: str, dynamo: bool, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = l1bn.L1BatchNormAct2d(3, track_running_stats=kind != "untracked")
    net(batch())
    net.train(kind == "training")
    x, file = batch(), tmp_path / "net.onnx"
    options: dict[str, Any] = {"dynamo": dynamo}
    if not dynamo:
        options |= {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    torch.onnx.export(copy.deepcopy(net), (x,), file, **options)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (name,) = [i.name for i in session.get_inputs()]
    other = batch()
    got = session.run(None, {name: other.numpy()})[0]
    assert_close(torch.from_numpy(got), net(other), "order")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["untracked", "training"])
def test_old_onnx_of_a_fused_model_follows_its_input(
    l1_net: nn.Module, batch: Any, kind: str
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    if kind == "untracked":
        for module in l1_net.eval().modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
    options: dict[str, Any] = {
        "training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False, "dynamo": False,
    }  # fmt: skip
    file, x, other = io.BytesIO(), batch(), batch()
    torch.onnx.export(copy.deepcopy(l1_net), (x,), file, **options)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (name,) = [i.name for i in session.get_inputs()]
    got = session.run(None, {name: other.numpy()})[0]
    assert_close(torch.from_numpy(got), l1_net(other), "single sums")


def test_fx_takes_the_layers_as_leaves(l1_net: nn.Module, batch: Any) -> None:
    graph = torch.fx.symbolic_trace(l1_net.eval())
    called = [n.target for n in graph.graph.nodes if n.op == "call_module"]
    assert {"bn", "block.bn1", "block.bn2"} <= set(called)
    x = batch()
    with torch.no_grad():
        assert_close(graph(x), l1_net(x), "exact")
    act = nn.Sequential(l1bn.L1BatchNormAct2d(3))
    assert [n.target for n in torch.fx.symbolic_trace(act).graph.nodes] == ["input", "0", "output"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fx_folding_equals(l1_net: nn.Module, batch: Any) -> None:
    from torch.fx.experimental.optimization import fuse

    x = batch()
    assert_close(fuse(l1_net.eval())(x), l1_net(x), "order")


def test_torchvisions_feature_extractor(l1_net: nn.Module, batch: Any) -> None:
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    names = extraction.get_graph_node_names(l1_net)[1]
    assert "block.bn1" in names
    extract = extraction.create_feature_extractor(l1_net, ["bn", "block.bn1"])
    x = batch()
    torch.testing.assert_close(extract.eval()(x)["bn"], l1_net.bn.eval()(l1_net.stem(x)))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_counts_once_and_is_bit_equal(
    l1_net: nn.Module, batch: Any, reentrant: bool
) -> None:
    plain, x = copy.deepcopy(l1_net).train(), batch().requires_grad_()
    z = x.detach().clone().requires_grad_()
    out = checkpoint(l1_net.train(), x, use_reentrant=reentrant)
    out.square().sum().backward(), plain(z).square().sum().backward()
    assert torch.equal(x.grad, z.grad)
    for (name, one), other in zip(l1_net.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name
    assert_same_state(l1_net, plain, "exact")
    assert int(plain.bn.num_batches_tracked) == 4


def test_compiled_checkpointing_counts_once() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), l1bn.L1BatchNormAct2d(4))
    plain = copy.deepcopy(net)

    def run(x: torch.Tensor) -> torch.Tensor:
        return checkpoint(net, x, use_reentrant=False)

    made = torch.compile(run, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        x = torch.randn(4, 3, 8, 8)
        made(x.requires_grad_()).square().sum().backward()
        plain(x).square().sum().backward()
    assert_same_state(net, plain, "single sums")
    assert_close(net[0].weight.grad, plain[0].weight.grad, "cancelling")


def test_func_grad_over_functional_call(l1_net: nn.Module, batch: Any) -> None:
    plain, x = copy.deepcopy(l1_net).train().double(), batch().double()
    net = l1_net.train().double()
    parameters, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    got = grad(lambda p: functional_call(net, (p, buffers), (x,)).square().sum())(parameters)
    plain(x).square().sum().backward()
    torch.testing.assert_close(got, {k: p.grad for k, p in plain.named_parameters()})
    torch.testing.assert_close(buffers, dict(plain.named_buffers()))


def test_jacobians_and_vmap() -> None:
    layer, x = l1bn.L1BatchNorm2d(3).double(), torch.randn(2, 3, 2, 3).double()

    def f(v: torch.Tensor) -> torch.Tensor:
        return layer(v).sum((2, 3)) * torch.arange(2.0).view(2, 1)

    one = torch.autograd.functional.jacobian(f, x)
    torch.testing.assert_close(jacrev(f)(x), one)
    torch.testing.assert_close(torch.autograd.functional.jacobian(f, x, vectorize=True), one)
    before = int(layer.num_batches_tracked)
    many = torch.randn(4, 2, 3, 2, 3).double()
    got = vmap(layer)(many)
    assert int(layer.num_batches_tracked) == before
    torch.testing.assert_close(got, torch.stack([layer(v) for v in many]))


def test_an_ensemble_under_vmap_moves_the_statistics_of_each(l1_net: nn.Module, batch: Any) -> None:
    nets = [copy.deepcopy(l1_net).double() for _ in range(2)]
    nets[1].bn.weight.data.mul_(2)
    parameters, buffers = torch.func.stack_module_state(nets)
    base, x = copy.deepcopy(nets[0]).to("meta"), batch().double()

    def run(p: Any, b: Any) -> torch.Tensor:
        return functional_call(base, (p, b), (x,))

    got = vmap(run)(parameters, buffers)
    torch.testing.assert_close(got, torch.stack([net(x) for net in nets]))
    for index, net in enumerate(nets):
        one = {name: value[index] for name, value in buffers.items()}
        torch.testing.assert_close(one, dict(net.named_buffers()))


def test_forward_of_a_batch_vectorized_over_gradients_with_an_activation() -> None:
    layer, x = l1bn.L1BatchNormAct2d(3).double(), torch.randn(2, 3, 2, 3).double()
    one = torch.autograd.functional.jacobian(layer, x)
    torch.testing.assert_close(torch.autograd.functional.jacobian(layer, x, vectorize=True), one)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_package(l1_net: nn.Module, batch: Any) -> None:
    from torch.package import PackageExporter, PackageImporter

    model = nn.Sequential(l1_net.stem, l1_net.bn)
    file = io.BytesIO()
    with PackageExporter(file) as exporter:
        exporter.extern(["torch.**", "l1bn.**"])
        exporter.save_pickle("model", "model.pkl", model)
    file.seek(0)
    loaded = PackageImporter(file).load_pickle("model", "model.pkl")
    x = batch()
    assert_close(loaded(x), model(x), "exact")
