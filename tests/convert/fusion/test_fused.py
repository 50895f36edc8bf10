"""A fused block afterwards: copies, tools, and every change that somebody may make."""

from __future__ import annotations

import copy
import io
import pickle
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.package
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from judge import assert_close
from l1bn import convert_, convert_sync_, revert_
from zoo import BasicBlock, SmallResNet, warm

Spy = Callable[[nn.Module, Any], list[Any]]
X = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def activations(calls: list[tuple[Any, bool]]) -> Spy:
    """Activations that the layers of a model computed themselves in one call."""

    def call(model: nn.Module, x: Any) -> list[Any]:
        calls.clear()
        model(x)
        return [activation for activation, _ in calls]

    return call


class Block(nn.Module):
    """Everything that a test wants to change afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 1)
        self.layer = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Identity())
        self.act = nn.ReLU()
        self.scale = 1.0
        self.extra = None
        self.config = types.SimpleNamespace(power=1)
        self.powers = [1]
        self.table = {"power": 1}

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = F.relu(self.first(x))
        residual = x if residual is None else residual
        y = self.layer(x)
        y = self.act(y + residual) * self.scale
        if self.config.power * self.powers[0] * self.table["power"] != 1:
            y = y**3
        return y if self.extra is None else self.extra(y)


@pytest.fixture
def block() -> nn.Module:
    block = warm(Block(), 4, 4, 6, 6)
    assert len(convert_(block).fused) == 1
    return block


def original(block: nn.Module, *args: Any) -> Tensor:
    """What the block computes un-fused."""
    plain = copy.deepcopy(block)
    convert_(plain, fuse=False)
    return plain(*args)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "gelu": lambda b: setattr(b, "act", nn.GELU()),
    "wrapped-relu": lambda b: setattr(b, "act", nn.Sequential(nn.ReLU())),
    "attribute": lambda b: setattr(b, "scale", 3.0),
    "config": lambda b: setattr(b.config, "power", 2),
    "list": lambda b: b.powers.__setitem__(0, 2),
    "dictionary": lambda b: b.table.update(power=2),
    "new-part": lambda b: setattr(b, "extra", nn.Sigmoid()),
    "append": lambda b: b.layer.append(nn.Tanh()),
    "insert": lambda b: b.layer.insert(0, nn.Tanh()),
    "norm": lambda b: b.layer.__setitem__(1, nn.BatchNorm2d(4).eval()),
    "identity": lambda b: b.layer.__setitem__(2, nn.Tanh()),
    "branch": lambda b: setattr(b, "layer", nn.Tanh()),
    "branch-forward": lambda b: setattr(b.layer, "forward", torch.tanh),
    "norm-forward": lambda b: setattr(b.layer[1], "forward", torch.tanh),
    "act-forward": lambda b: setattr(b.act, "forward", torch.tanh),
    "branch-hook": lambda b: b.layer.register_forward_hook(lambda *a: a[2] * 2),
    "branch-pre-hook": lambda b: b.layer.register_forward_pre_hook(lambda _, a: a[0] * 2),
    "norm-hook": lambda b: b.layer[1].register_forward_hook(lambda *a: a[2] * 2),
    "norm-pre-hook": lambda b: b.layer[1].register_forward_pre_hook(lambda _, a: a[0] * 2),
    "identity-hook": lambda b: b.layer[2].register_forward_hook(lambda *a: a[2] * 2),
    "act-hook": lambda b: b.act.register_forward_hook(lambda *a: a[2] * 2),
    "act-pre-hook": lambda b: b.act.register_forward_pre_hook(lambda _, a: a[0] * 2),
}


#: Changes of what comes after the activation, which is fused all the same.
AFTER = ("attribute", "config", "list", "dictionary", "new-part", "insert")


class TestChanged:
    """After each of these changes the result must be that of the model as it is now."""

    def test_nothing_changed(self, block: nn.Module, activations: Spy) -> None:
        assert activations(block, X) == ["relu"]
        torch.testing.assert_close(block(X), original(block, X))

    @pytest.mark.parametrize("name", CHANGES)
    def test_after_a_change(self, name: str, block: nn.Module, activations: Spy) -> None:
        before = block(X)
        CHANGES[name](block)
        assert ("relu" in activations(block, X)) == (name in AFTER)
        changed = block(X)
        torch.testing.assert_close(changed, original(block, X))
        if not isinstance(block.act, nn.Sequential):
            assert not torch.allclose(changed, before)

    @pytest.mark.parametrize(
        "register",
        [nn.Module.register_full_backward_hook, nn.Module.register_full_backward_pre_hook],
    )
    @pytest.mark.parametrize("part", ["layer", "layer.1", "act"])
    def test_backward_hooks_fire(self, register: Any, part: str, block: nn.Module) -> None:
        fired: list[str] = []
        register(block.get_submodule(part), lambda *_: fired.append(part))
        block(X.clone().requires_grad_()).sum().backward()
        assert fired == [part]

    def test_global_hooks_see_every_module(self, block: nn.Module, activations: Spy) -> None:
        seen: list[nn.Module] = []
        handle = register_module_forward_hook(lambda module, *_: seen.append(module))
        try:
            assert activations(block, X) == [None]
        finally:
            handle.remove()
        assert seen == [block.first, *block.layer, block.layer, block.act, block]
        assert activations(block, X) == ["relu"]

    def test_called_in_another_way(self, block: nn.Module) -> None:
        other = torch.randn_like(X)
        for args in ((X, other), (X, None)):
            torch.testing.assert_close(block(*args), original(block, *args))
        torch.testing.assert_close(block(x=X, residual=other), original(block, X, other))

    def test_parts_in_different_modes(self, block: nn.Module) -> None:
        block.train()
        block.layer.eval()
        torch.testing.assert_close(block(X), original(block, X))

    def test_only_the_layer_frozen_still_fuses(self, block: nn.Module, activations: Spy) -> None:
        block.train()
        block.layer[1].eval()
        assert activations(block, X) == ["relu"]
        torch.testing.assert_close(block(X), original(block, X))

    def test_synchronised_layers_are_not_fused(self, block: nn.Module, activations: Spy) -> None:
        expected = block(X)
        convert_sync_(block)
        assert activations(block, X) == [None]
        torch.testing.assert_close(block(X), expected)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_residual_of_another_shape_or_dtype(self, dtype: torch.dtype) -> None:
        class Add(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

            def forward(self, x: Tensor, residual: Tensor) -> Tensor:
                return F.relu(self.bn(self.conv(x)) + residual)

        model = Add().eval()
        assert len(convert_(model).fused) == 1
        for residual in (X[:1], X[..., :1], X.to(dtype)):
            expected = F.relu(model.bn(model.conv(X)) + residual)
            torch.testing.assert_close(model(X, residual), expected)


class TestCopies:
    @pytest.mark.parametrize(
        "copied",
        [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
        ids=["deepcopy", "pickle"],
    )
    def test_a_copy_is_fused_and_independent(self, copied: Any, activations: Spy) -> None:
        model, x = warm(SmallResNet(), 4, 3, 8, 8), torch.randn(2, 3, 8, 8)
        convert_(model, example=x)
        twin = copied(model)
        assert isinstance(twin.layer2, BasicBlock)
        assert repr(twin) == repr(model)
        assert torch.equal(twin(x), model(x))
        assert activations(twin, x).count("relu") == 8
        for parameter in twin.parameters():
            parameter.data.fill_(0.1)
        assert not torch.equal(twin(x), model(x))
        torch.testing.assert_close(twin(x), original(twin, x))
        revert_(twin)
        assert len(revert_(model).fused) == 8

    @pytest.mark.parametrize(
        "copied",
        [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
        ids=["deepcopy", "pickle"],
    )
    def test_attributes_of_a_copy_are_its_own(
        self, copied: Any, block: Any, activations: Spy
    ) -> None:
        block.scale, block.config.power = 1.5, 1.0
        block.eval()
        convert_(block, example=X)
        twin = copied(block)
        assert activations(twin, X) == ["relu"]
        block.scale = 2.0
        assert activations(twin, X) == ["relu"]
        before = twin(X)
        twin.config.power = 3.0
        torch.testing.assert_close(twin(X), (before / 1.5) ** 3 * 1.5**3)

    def test_whole_models_are_saved_and_loaded(self, tmp_path: Any) -> None:
        model, x = warm(SmallResNet(), 4, 3, 8, 8), torch.randn(2, 3, 8, 8)
        convert_(model, example=x)
        torch.save(model, tmp_path / "model.pt")
        loaded = torch.load(tmp_path / "model.pt", weights_only=False)
        assert torch.equal(loaded(x), model(x))

    def test_a_shallow_replica_computes_with_its_own_parts(self, block: Any) -> None:
        # As DataParallel makes them.
        block.first = nn.Identity()
        replica = block._replicate_for_data_parallel()
        layer = copy.deepcopy(block.layer)
        layer[0].weight.data.mul_(2)
        replica._modules.update(layer=layer, act=block.act)
        x = F.relu(X)
        expected = F.relu(layer(x) + x)
        torch.testing.assert_close(replica(X), expected)
        assert not torch.allclose(block(X), expected)
        replica._modules["layer"] = nn.Sequential(*layer, nn.Tanh())
        torch.testing.assert_close(replica(X), F.relu(torch.tanh(layer(x)) + x))


class TestTools:
    @pytest.fixture
    def model(self) -> nn.Module:
        model = warm(SmallResNet(), 4, 3, 8, 8)
        convert_(model, example=torch.randn(2, 3, 8, 8))
        return model

    @pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_compile_makes_one_graph(self, block: nn.Module, mode: bool) -> None:
        torch._dynamo.reset()
        block.train(mode)
        expected = copy.deepcopy(block)(X)
        compiled = torch.compile(block, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(X), expected)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_an_unpickled_block_compiles(self, block: nn.Module) -> None:
        torch._dynamo.reset()
        block = pickle.loads(pickle.dumps(block))
        expected = original(block, X)
        compiled = torch.compile(block, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(X), expected)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_export(self, block: nn.Module) -> None:
        exported = torch.export.export(block, (X,)).module()
        torch.testing.assert_close(exported(X), block(X))

    def test_functional_call_and_gradients(self, model: nn.Module) -> None:
        x = torch.randn(2, 3, 8, 8)
        parameters = {name: 2 * p.detach() for name, p in model.named_parameters()}
        plain = copy.deepcopy(model)
        revert_(plain)
        convert_(plain)

        def loss(module: nn.Module) -> Callable[[dict[str, Tensor]], Tensor]:
            return lambda p: torch.func.functional_call(module, p, (x,)).square().mean()

        got, wanted = (torch.func.grad(loss(m))(parameters) for m in (model, plain))
        torch.testing.assert_close(got, wanted)

    def test_signature_and_class_name_stay(self, block: nn.Module) -> None:
        import inspect

        assert list(inspect.signature(block.forward).parameters) == ["x", "residual"]
        assert isinstance(block, Block)
        assert type(block).__name__ == "Block"
        assert type(block).__module__ == Block.__module__

    def test_bfloat16_autocast(self, model: nn.Module) -> None:
        x = torch.randn(2, 3, 8, 8)
        with torch.autocast("cpu", torch.bfloat16):
            got, wanted = model(x), original(model, x)
        assert got.dtype == torch.bfloat16
        assert_close(got, wanted, "half")

    def test_checkpointing(self, model: nn.Module) -> None:
        from torch.utils.checkpoint import checkpoint

        x = torch.randn(2, 8, 6, 6, requires_grad=True)
        layer = model.layer1.train()
        wanted = torch.autograd.grad(copy.deepcopy(layer)(x).square().sum(), x)
        got = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), x)
        torch.testing.assert_close(got, wanted)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    def test_scripted_and_traced_it_is_saved_and_loaded(self, model: nn.Module) -> None:
        x = torch.randn(2, 3, 8, 8)
        made = [torch.jit.script(model), torch.jit.trace(model, x)]
        for scripted in made:
            file = io.BytesIO()
            torch.jit.save(scripted, file)
            file.seek(0)
            torch.testing.assert_close(torch.jit.load(file)(x + 1), model(x + 1))

    def test_the_old_onnx_exporter_follows_the_input(self, model: nn.Module) -> None:
        runtime = pytest.importorskip("onnxruntime")
        x, file = torch.randn(2, 3, 8, 8), io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(copy.deepcopy(model), (x,), file, dynamo=False)
        session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
        (name,) = [entry.name for entry in session.get_inputs()]
        got = torch.from_numpy(session.run(None, {name: (x + 1).numpy()})[0])
        assert_close(got, model(x + 1), "order")

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
    def test_a_package_holds_it(self, model: nn.Module) -> None:
        x, file = torch.randn(2, 3, 8, 8), io.BytesIO()
        with torch.package.PackageExporter(file) as exporter:
            exporter.extern(["l1bn.**", "torch.**", "judge"])
            exporter.intern("zoo")
            exporter.save_pickle("models", "model.pkl", model)
        file.seek(0)
        loaded = torch.package.PackageImporter(file).load_pickle("models", "model.pkl")
        torch.testing.assert_close(loaded(x), model(x))
        assert len(revert_(loaded).fused) == 8

    def test_parametrized_afterwards_it_can_be_reverted(self, block: Any) -> None:
        nn.utils.parametrize.register_parametrization(block.first, "weight", nn.Identity())
        block.scale_parameter = nn.Parameter(torch.ones(1))
        nn.utils.parametrize.register_parametrization(block, "scale_parameter", nn.Identity())
        torch.testing.assert_close(block(X), original(block, X))
        revert_(block)
        assert type(block).__mro__[1] is Block
        assert block.scale_parameter.item() == 1
