"""convert_(model): what is fused computes the same, what is not is said."""

from __future__ import annotations

import copy
import importlib.util
import linecache
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import relu6
from torch.utils.checkpoint import checkpoint

from judge import assert_close
from l1bn import L1BatchNorm2d, L1SyncBatchNorm, convert_, revert_
from l1bn.convert import example as checking
from l1bn.convert.fusion import decide
from zoo import Block, SmallResNet, assert_same, warm

Calls = list[tuple[Any, bool]]
X = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def helper_on_shapes(x: Tensor, conv: nn.Module) -> Tensor:
    """Control flow on a shape, inside a function: as in transformers' MobileNetV2."""
    return F.pad(x, (1, 1, 1, 1)) if x.shape[-1] < 100 else x


class WithHelper(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(helper_on_shapes(x, self.conv))))


class Nested(nn.Module):
    """The layer sits two modules deep, and the addition is outside."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.Identity())
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), inner)
        self.shortcut = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y += self.shortcut(x)
        return self.act(y)


class OnLists(Block):
    def forward(self, xs: list[Tensor], scale: float = 1.0) -> Tensor:
        return self.act(self.bn(torch.cat(xs, 2))) * scale


class Way(Block):
    """Convolution, normalization and activation in one of the ways that people write."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inplace, self.six = nn.Conv2d(4, 4, 1), nn.ReLU(True), nn.ReLU6()


class Module(Way):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Neighbours(Way):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.bn(x)
        x = self.inplace(x)
        return x


class Function(Way):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(x), inplace=True) if x.mean() < 100 else x


class Imported(Way):
    def forward(self, x: Tensor) -> Tensor:
        return relu6(self.bn(x))


class OfTorch(Way):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(x))


class OfTheTensor(Way):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu_().mean((2, 3), keepdim=True)


class LeakyByPosition(Way):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.bn(self.conv(x)), 0.2)


class EluByKeyword(Way):
    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        return F.elu(x, alpha=0.5, inplace=True)


class GeluByKeyword(Way):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.bn(x), approximate="tanh")


class SigmoidOfTheTensor(Way):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x).sigmoid_()


class Modules(Way):
    """One layer after each of several normalizations."""

    def __init__(self) -> None:
        super().__init__()
        acts = (
            nn.SiLU(True), nn.Hardswish(), nn.GELU(), nn.GELU("tanh"), nn.Mish(), nn.LeakyReLU(0.3),
            nn.ELU(0.7), nn.Sigmoid(), nn.Tanh(),
        )  # fmt: skip
        self.body = nn.Sequential(*(m for act in acts for m in (nn.BatchNorm2d(4), act)))

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.body(x))


class ExactHardsigmoid(nn.Module):
    """PyTorch's has its slope, 1/6, in single precision."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x + 3) / 6


class Residual(Way):
    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.relu(self.first(x))
        x = self.bn(self.conv(shortcut))
        x += shortcut
        return self.act(x)


class ResidualFirst(Way):
    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.relu(self.first(x))
        return self.six(shortcut + self.bn(self.conv(shortcut)))


class ByMethods(Way):
    """As torchvision and timm write it."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, self._forward_impl(x), use_reentrant=False)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        x = self.act(x)
        return x

    def body(self, x: Tensor) -> Tensor:
        return x * 2


class Everywhere(Way):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            try:
                with torch.enable_grad():
                    x = self.act(self.bn(x))
            finally:
                x = self.six(x)
        return x


class WithSuper(Module):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.act(self.bn(x)))


def enclosing(factor: float) -> type[nn.Module]:
    class WithClosure(Way):
        def forward(self, x: Tensor, *, more: float = 1.0) -> Tensor:
            return factor * more * self.act(self.bn(x))

    return WithClosure


WAYS: dict[str, tuple[Any, list[tuple[Any, bool]]]] = {
    "module": (Module, [("relu", False)]),
    "neighbours": (Neighbours, [("relu", False)]),
    "function": (Function, [("relu", False)]),
    "imported": (Imported, [("relu6", False)]),
    "torch.relu": (OfTorch, [("relu", False)]),
    "y.relu_()": (OfTheTensor, [("relu", False)]),
    "leaky by position": (LeakyByPosition, [(("leaky_relu", 0.2), False)]),
    "elu by keyword": (EluByKeyword, [(("elu", 0.5), False)]),
    "gelu by keyword": (GeluByKeyword, [("gelu_tanh", False)]),
    "y.sigmoid_()": (SigmoidOfTheTensor, [("sigmoid", False)]),
    "modules": (
        Modules,
        [
            *[
                (name, False)
                for name in (
                    "silu",
                    "hardswish",
                    "gelu",
                    "gelu_tanh",
                    "mish",
                    ("leaky_relu", 0.3),
                    ("elu", 0.7),
                    "sigmoid",
                    "tanh",
                )
            ],
            (None, False),
        ],
    ),
    "y += x": (Residual, [("relu", True)]),
    "x + y": (ResidualFirst, [("relu6", True)]),
    "methods": (ByMethods, [("relu", False)]),
    "everywhere": (Everywhere, [("relu", False)] * 2),
    "super": (WithSuper, [("relu", False), (None, False)]),
    "closure": (enclosing(3.0), [("relu", False)]),
}


class TestFused:
    def test_hardsigmoid(self) -> None:
        fused = warm(nn.Sequential(nn.BatchNorm2d(4), nn.Hardsigmoid()), 4, 4, 6, 6)
        exact = nn.Sequential(copy.deepcopy(fused[0]), ExactHardsigmoid())
        assert convert_(fused).fused[0].text == "L1BatchNorm2d → Hardsigmoid"
        convert_(exact, fuse=False)
        assert_same(exact, fused, X)

    @pytest.mark.parametrize("name", WAYS)
    def test_ways_to_write_it(self, name: str, calls: Calls) -> None:
        make, expected = WAYS[name]
        model = warm(make(), 4, 4, 6, 6)
        convert_(model, fuse=False)
        fused = copy.deepcopy(model)
        assert convert_(fused).fused
        assert_same(model, fused, X)
        calls.clear()
        fused(X)
        assert calls == expected
        calls.clear()
        with torch.no_grad():
            assert torch.equal(fused(X), model(X))
        assert not any(activation for activation, _ in calls)
        revert_(fused)
        assert type(fused) is make

    @pytest.mark.parametrize(
        ("make", "example", "fusions"),
        [
            (SmallResNet, torch.randn(2, 3, 8, 8), 8),
            (WithHelper, X, 1),
            (Nested, X, 3),
            (lambda: nn.Sequential(nn.BatchNorm1d(5), nn.ReLU6()), torch.randn(8, 5), 1),
            (lambda: nn.Sequential(nn.BatchNorm3d(2), nn.ReLU()), torch.randn(2, 2, 3, 3, 3), 1),
            (lambda: nn.Sequential(nn.Sequential(nn.BatchNorm2d(4)), nn.ReLU()), X, 1),
        ],
        ids=["resnet", "helper", "nested", "1d", "3d", "across-modules"],
    )
    def test_models(self, make: Any, example: Tensor, fusions: int, calls: Calls) -> None:
        model = warm(make(), *example.shape)
        convert_(model, fuse=False)
        fused = copy.deepcopy(model)
        example = example.double()
        report = convert_(fused.double(), example=example)
        assert len(report.fused) == fusions
        assert_same(model, fused, example)
        calls.clear()
        fused(example)
        assert sum(activation is not None for activation, _ in calls) == fusions
        assert list(fused.state_dict()) == list(model.state_dict())
        assert revert_(fused).fused == report.fused

    def test_lists_and_keywords(self, calls: Calls) -> None:
        model = OnLists().double().eval()
        report = convert_(model, example={"xs": [X, X], "scale": 2.0})
        assert len(report.fused) == 1
        calls.clear()
        torch.testing.assert_close(
            model(xs=[X, X], scale=2.0), 2 * F.relu(model.bn(torch.cat([X, X], 2)))
        )
        assert calls[0] == ("relu", False)

    def test_example_as_tuple(self) -> None:
        assert len(convert_(OnLists().double(), example=([X, X],)).fused) == 1

    def test_layers_that_were_l1bn_before_are_fused_too(self) -> None:
        model = nn.Sequential(L1BatchNorm2d(4), nn.ReLU()).double()
        report = convert_(model, example=X)
        assert not report.converted
        assert len(report.fused) == 1

    def test_converting_again_finds_the_same(self) -> None:
        model, example = SmallResNet(), torch.randn(2, 3, 8, 8)
        first, tree = convert_(model, example=example), repr(model)
        again = convert_(model, example=example)
        assert again.fused == first.fused
        assert again.not_fused == first.not_fused
        assert repr(model) == tree

    def test_revert_restores_structure_and_outputs(self) -> None:
        model, x = warm(SmallResNet(), 4, 3, 8, 8), torch.randn(2, 3, 8, 8)
        expected, tree = model(x), repr(model)
        types = [type(module) for module in model.modules()]
        convert_(model, example=x)
        assert repr(model) != tree
        assert_close(model(x), expected, "single")
        report = revert_(model)
        assert len(report.fused) == 8
        assert [type(module) for module in model.modules()] == types
        assert repr(model) == tree
        assert torch.equal(model(x), expected)

    def test_the_model_is_run_without_a_trace(self) -> None:
        model, example = SmallResNet(), torch.randn(2, 3, 8, 8)
        model.layer1.eval()
        model.head.weight.grad = torch.ones(4, 16)
        modes = [module.training for module in model.modules()]
        state = copy.deepcopy(model.state_dict())
        generator = torch.random.get_rng_state()
        convert_(model, example=example)
        assert torch.equal(torch.random.get_rng_state(), generator)
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
        assert torch.equal(model.head.weight.grad, torch.ones(4, 16))
        assert not any(module._forward_pre_hooks for module in model.modules())


class Twice(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(x)
        return self.act(y) + y


class Softplus(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(self.bn(x))


class ConvolutionNext(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bn(x))


class End(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x)


class Collection(Block):
    def forward(self, x: Tensor) -> Tensor:
        return (self.bn(x), 1)[0]


class Constant(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x) + 1)


class Between(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        y = self.bn(x)
        x.mul_(2)
        return self.act(y + x)


class Shadowed(Block):
    leaky = True

    def forward(self, x: Tensor) -> Tensor:
        relu = F.relu if not self.leaky else F.leaky_relu
        return relu(self.bn(x))


class Decorated(Block):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x))


class Rebinds(Block):
    def forward(self, x: Tensor) -> Tensor:
        self = self.train()
        return self.act(self.bn(x))


def without_source() -> type[nn.Module]:
    namespace: dict[str, Any] = {"Block": Block}
    text = (
        "class NoSource(Block):\n    def forward(self, x):\n        return self.act(self.bn(x))\n"
    )
    exec(text, namespace)
    return namespace["NoSource"]


UNSEEN = "no activation is seen to take its output, and nothing else to see it"
NOT_FUSED: dict[str, tuple[Any, str]] = {
    "used twice": (Twice, UNSEEN),
    "softplus": (Softplus, UNSEEN),
    "convolution": (ConvolutionNext, "no activation that a layer computes follows, but Conv2d"),
    "end": (End, "its output leaves the model"),
    "collection": (Collection, UNSEEN),
    "constant": (Constant, ""),
    "shadowed": (Shadowed, UNSEEN),
    "decorated": (Decorated, "Decorated: its forward takes no self: it is decorated"),
    "rebinds": (Rebinds, "Rebinds: its forward rebinds self"),
    "no source": (without_source(), "NoSource: its source is not available: define it in a file"),
}


class TestNotFused:
    @pytest.mark.parametrize("name", NOT_FUSED)
    def test_what_is_not_certain_is_left_and_explained(self, name: str, calls: Calls) -> None:
        make, reason = NOT_FUSED[name]
        model = make().double()
        convert_(model, fuse=False)
        unfused = copy.deepcopy(model)
        report = convert_(model)
        if name == "decorated":
            assert torch.equal(model(X), unfused(X))
        else:
            assert_same(unfused, model, X)
        assert not any(activation for activation, _ in calls)
        if reason:
            assert [str(item) for item in report.not_fused] == [f"bn: {reason}"]
            assert type(model) is make

    def test_an_input_that_changes_is_read_before_it_does(self) -> None:
        model = Between().double()
        convert_(model, fuse=False)
        unfused = copy.deepcopy(model)
        convert_(model)
        with torch.no_grad():
            assert torch.equal(model(X), unfused(X))

    @pytest.mark.parametrize("part", ["bn", "act"])
    def test_hooks(self, part: str) -> None:
        model = Module().double()
        seen: list[Tensor] = []
        model.get_submodule(part).register_forward_hook(lambda *a: seen.append(a[2]))
        report = convert_(model)
        assert not report.fused
        reason = {
            "bn": "a hook watches its output",
            "act": "no activation that a layer computes follows, but ReLU with a hook",
        }
        assert [item.text for item in report.not_fused] == [reason[part]]
        model(X)
        assert len(seen) == 1

    @pytest.mark.parametrize("part", ["branch", "branch.3"])
    def test_hooks_on_modules_around_the_layer(self, part: str) -> None:
        model = Nested().double()
        model.get_submodule(part).register_forward_hook(lambda *a: a[2] * 2)
        convert_(model, fuse=False)
        unfused = copy.deepcopy(model)
        report = convert_(model)
        assert "branch.3.1: a hook watches its output" in map(str, report.not_fused)
        assert_same(unfused, model, X)

    def test_a_replaced_forward(self) -> None:
        model: Any = nn.Sequential(Module()).double()
        model[0].forward = lambda x: 2 * x
        report = convert_(model)
        assert torch.equal(model(X), 2 * X)
        assert [item.text for item in report.not_fused] == ["Module: its forward was replaced"]

    def test_a_forward_of_the_class_patched_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = Module().double()
        assert convert_(model).fused
        monkeypatch.setattr(Module, "forward", lambda self, x: 3 * x)
        assert torch.equal(model(X), 3 * X)

    def test_a_forward_of_the_same_code_and_another_closure(self) -> None:
        def scaled(factor: float) -> Callable[[Way, Tensor], Tensor]:
            def forward(self: Way, x: Tensor) -> Tensor:
                return self.act(self.bn(x)) * factor

            return forward

        class Scaled(Way):
            forward = scaled(1.0)

        model = Scaled().double()
        assert convert_(model).fused
        y = model(X)
        Scaled.forward = scaled(3.0)
        assert torch.equal(model(X), 3 * y)
        (item,) = convert_(Scaled().double()).not_fused
        assert item.text == "Scaled: its class was changed after a model of it was fused"

    def test_a_method_of_the_class_patched_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Helped(Way):
            def forward(self, x: Tensor) -> Tensor:
                return self.body(x)

            def body(self, x: Tensor) -> Tensor:
                return self.act(self.bn(x))

        model = Helped().double()
        assert convert_(model).fused
        monkeypatch.setattr(Helped, "body", lambda self, x: 3 * x)
        assert torch.equal(model(X), 3 * X)
        (item,) = convert_(Helped().double()).not_fused
        assert item.text == "Helped: its class was changed after a model of it was fused"

    def test_a_file_changed_since_it_was_imported_is_not_used(self, tmp_path: Path) -> None:
        text = (
            "from zoo import Block\n"
            "class Edited(Block):\n"
            "    def forward(self, x):\n"
            "        return self.act(self.bn(x))\n"
        )
        path = tmp_path / "edited.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("edited", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        path.write_text(text.replace("self.bn(x)", "self.bn(-x)"))
        linecache.checkcache()
        (item,) = convert_(module.Edited()).not_fused
        assert "its source is not what runs" in item.text

    def test_synchronised_layers(self) -> None:
        report = convert_(nn.Sequential(L1SyncBatchNorm(4), nn.ReLU()).double())
        assert [item.text for item in report.not_fused] == ["L1SyncBatchNorm takes no activation"]


class Clock(Block):
    """Not the same twice."""

    times = 0

    def forward(self, x: Tensor) -> Tensor:
        Clock.times += 1
        return self.act(self.bn(x)) * Clock.times


DEPTH = 60


def deep_and_narrow() -> nn.Module:
    """Two images of four pixels: a rounding grows a thousandfold on its way."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.GELU()) for _ in range(DEPTH)]
    return nn.Sequential(*layers)


class TestExample:
    def test_the_model_does_not_run(self) -> None:
        model, seen = nn.Sequential(SmallResNet()), []
        model.register_forward_hook(lambda *_: seen.append(1))
        state = copy.deepcopy(model.state_dict())
        convert_(model, example=torch.randn(2, 3, 8, 8))
        assert not seen
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())

    @pytest.mark.parametrize("grad", [False, True])
    def test_the_example_stays_as_it_is(self, grad: bool) -> None:
        batch = torch.randn(2, 3, 8, 8)
        before = batch.clone()
        convert_(nn.Sequential(nn.ReLU(True), SmallResNet()), example=batch.requires_grad_(grad))
        assert torch.equal(batch, before)

    def test_what_differs_is_refused(self) -> None:
        model = Clock().double()
        with pytest.raises(ValueError, match="to compute the same in evaluation, got a difference"):
            convert_(model, example=X)
        assert type(model) is Clock
        assert type(model.bn) is nn.BatchNorm2d

    def test_a_network_that_amplifies_roundings_is_converted(self) -> None:
        report = convert_(deep_and_narrow(), example=torch.randn(2, 4, 2, 2))
        assert len(report.fused) == DEPTH

    @pytest.mark.parametrize("way", ["in double", "by the parameters' roundings"])
    def test_either_way_of_telling_roundings_suffices(
        self, way: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if way == "in double":
            monkeypatch.setattr(checking, "round_parameters_", lambda _: None)
        else:
            monkeypatch.setattr(nn.Module, "double", lambda _: 1 / 0)
        report = convert_(deep_and_narrow(), example=torch.randn(2, 4, 2, 2))
        assert len(report.fused) == DEPTH

    def test_roundings_are_no_excuse_where_neither_way_allows_for_them(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checking, "round_parameters_", lambda _: None)
        monkeypatch.setattr(nn.Module, "double", lambda _: 1 / 0)
        with pytest.raises(ValueError, match="got a difference"):
            convert_(deep_and_narrow(), example=torch.randn(2, 4, 2, 2))

    @pytest.mark.parametrize("deep", [False, True])
    def test_a_wrong_fusion_is_found(self, deep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        model = deep_and_narrow() if deep else SmallResNet()
        right = decide.activation_of
        monkeypatch.setattr(
            decide, "activation_of", lambda *args: right(*args) and ("leaky_relu", 0.3)
        )
        with pytest.raises(ValueError, match="got a difference"):
            convert_(model, example=torch.randn(2, 4 if deep else 3, 8, 8))

    def test_a_result_that_became_nan_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        results = iter([[torch.ones(3)], [torch.tensor([1.0, float("nan"), 1.0])]] * 4)
        monkeypatch.setattr(checking, "_results", lambda *_: next(results))
        with pytest.raises(ValueError, match="got a difference of nan"):
            convert_(Block(), example=X)

    def test_one_value_per_channel_can_be_checked_in_evaluation_only(self) -> None:
        model = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
        assert convert_(model, example=torch.randn(1, 4, 1, 1)).fused

    def test_a_model_that_cannot_be_copied(self) -> None:
        model = Block()
        model.lock = threading.Lock()  # type: ignore[assignment]
        with pytest.raises(ValueError, match="expected a model that can be copied"):
            convert_(model, example=X)
        assert type(model.bn) is nn.BatchNorm2d


class TestErrors:
    def test_an_example_that_the_model_cannot_run(self) -> None:
        model = SmallResNet()
        tree = repr(model)
        text = (
            r"convert_: expected an example that the model can run, got a tensor of shape "
            r"\(2, 5, 8, 8\), torch.float32, cpu, which raised RuntimeError: .*; the model is "
            "unchanged"
        )
        with pytest.raises(ValueError, match=text):
            convert_(model, example=torch.randn(2, 5, 8, 8))
        assert repr(model) == tree
        assert model.training

    def test_an_earlier_fusion_survives_a_bad_example(self) -> None:
        model, x = SmallResNet(), torch.randn(2, 3, 8, 8)
        convert_(model, example=x)
        tree = repr(model)
        with pytest.raises(ValueError, match="expected an example"):
            convert_(model, example=(x, x))
        assert repr(model) == tree
        model(x)
