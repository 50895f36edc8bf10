"""convert_(model, example): what is fused computes the same, what is not is said."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l1bn import L1BatchNorm2d, L1SyncBatchNorm, convert_, revert_
from zoo import Block, SmallResNet, assert_same, warm

Calls = list[tuple[Any, bool]]
X = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Sum(Block):
    """Normalization, addition, activation; a test says how."""

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.add(self.bn(self.conv(x)), x))


class Then(Block):
    """Normalization and whatever a test puts after it."""

    def __init__(self, then: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.then = then

    def forward(self, x: Tensor) -> Any:
        return self.then(self, self.bn(self.conv(x)))


def helper_on_shapes(x: Tensor, conv: nn.Module) -> Tensor:
    """Control flow on a shape, inside a function: as in transformers' MobileNetV2."""
    return F.pad(x, (1, 1, 1, 1)) if x.shape[-1] < 100 else x


class WithHelper(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(helper_on_shapes(x, self.conv))))


class ByMode(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return self.act(y) if self.training else self.act(y) + 1


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


class Looped(nn.Module):
    """Layers in containers that are never called themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.ModuleDict({"bn": nn.BatchNorm2d(4)}) for _ in range(2))
        self.act = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = self.act(part["bn"](x) + x)
        return x


class OnLists(Block):
    def forward(self, xs: list[Tensor], scale: float = 1.0) -> Tensor:
        return self.act(self.bn(torch.cat(xs, 2))) * scale


class TestFused:
    @pytest.mark.parametrize(
        ("then", "activation"),
        [
            (lambda self, y: self.act(y), "relu"),
            (lambda self, y: F.relu(y), "relu"),
            (lambda self, y: F.relu(y, inplace=True), "relu"),
            (lambda self, y: torch.relu(y), "relu"),
            (lambda self, y: torch.relu_(y), "relu"),
            (lambda self, y: y.relu(), "relu"),
            (lambda self, y: y.relu_(), "relu"),
            (lambda self, y: F.relu6(y), "relu6"),
            (lambda self, y: self.act(y).mean(dim=(2, 3)), "relu"),
            (lambda self, y: (self.act(y), [self.conv(y.new_zeros(4, 4, 6, 6))][0])[0], None),
        ],
        ids=lambda value: None,
    )
    def test_activations(self, then: Any, activation: Any, calls: Calls) -> None:
        model = warm(Then(then), 4, 4, 6, 6)
        convert_(model)
        fused = copy.deepcopy(model)
        report = convert_(fused, example=X.float())
        assert len(report.fused) == (activation is not None)
        assert_same(model, fused, X)
        calls.clear()
        fused(X)
        assert calls == [(activation, False)]

    @pytest.mark.parametrize(
        "add",
        [
            lambda y, x: y + x,
            lambda y, x: x + y,
            lambda y, x: torch.add(y, x),
            lambda y, x: y.add(x),
            lambda y, x: y.add_(x),
            lambda y, x: x.add(y),
            lambda y, x: y.__iadd__(x),
        ],
        ids=["y+x", "x+y", "torch.add", "y.add", "y.add_", "x.add", "y+=x"],
    )
    def test_additions(self, add: Any, calls: Calls) -> None:
        model = warm(Sum(add), 4, 4, 6, 6)
        convert_(model)
        fused = copy.deepcopy(model)
        report = convert_(fused, example=X.float())
        assert [str(item) for item in report.fused] == ["bn: L1BatchNorm2d → add → ReLU"]
        assert_same(model, fused, X)
        calls.clear()
        fused(X)
        assert calls == [("relu", True)]

    @pytest.mark.parametrize(
        ("make", "example", "fusions"),
        [
            (SmallResNet, torch.randn(2, 3, 8, 8), 8),
            (WithHelper, X, 1),
            (ByMode, X, 1),
            (Nested, X, 3),
            (Looped, X, 2),
            (lambda: nn.Sequential(nn.BatchNorm1d(5), nn.ReLU6()), torch.randn(8, 5), 1),
            (lambda: nn.Sequential(nn.BatchNorm3d(2), nn.ReLU()), torch.randn(2, 2, 3, 3, 3), 1),
            (lambda: nn.Sequential(nn.Sequential(nn.BatchNorm2d(4)), nn.ReLU()), X, 1),
        ],
        ids=["resnet", "helper", "by-mode", "nested", "looped", "1d", "3d", "across-modules"],
    )
    def test_models(self, make: Any, example: Tensor, fusions: int, calls: Calls) -> None:
        model = warm(make(), *example.shape)
        convert_(model)
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
        torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)
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

    def test_the_blocks_say_what_is_fused(self) -> None:
        model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        convert_(model.double(), example=X)
        assert repr(model).splitlines()[:2] == ["Sequential(", "  fused: 1 → 2"]


class Module(Block):
    """A block whose forward is a function of the test."""

    def __init__(self, run: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def draws(self: Any, x: Tensor) -> Tensor:
    return self.act(self.bn(x)) if random.random() < 2 else x


def remembers(self: Any, x: Tensor) -> Tensor:
    self.last = x
    return self.act(self.bn(x))


def replaces(self: Any, x: Tensor) -> Tensor:
    self.extra = nn.Identity()
    return self.act(self.bn(x))


def branches(self: Any, x: Tensor) -> Tensor:
    return self.act(self.bn(x)) if x.mean() < 100 else x


def inspects(self: Any, x: Tensor) -> Tensor:
    return self.act(self.bn(x)) if isinstance(x, Tensor) else x


def makes(self: Any, x: Tensor) -> Tensor:
    return self.act(self.bn(x)) if torch.rand(1) < 2 else x


def into_the_residual(self: Any, x: Tensor) -> Tensor:
    residual = x * 1
    residual += self.bn(self.conv(x))
    return self.act(residual)


def something_between(self: Any, x: Tensor) -> Tensor:
    x = x * 1
    y = self.bn(x)
    x.mul_(2)
    return self.act(y + x)


def same_layer_between(self: Any, x: Tensor) -> Tensor:
    y = self.bn(self.conv(x))
    return self.act(y + self.bn(x))


NOT_FUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "used twice": (
        lambda self, x: self.act(y := self.bn(x)) + y,
        "its output is used 2 times",
    ),
    "other activation": (
        lambda self, x: F.silu(self.bn(x)),
        "no ReLU or ReLU6 follows, but silu",
    ),
    "leaky": (
        lambda self, x: F.leaky_relu(self.bn(x)),
        "no ReLU or ReLU6 follows, but leaky_relu",
    ),
    "convolution": (
        lambda self, x: self.conv(self.bn(x)),
        "no ReLU or ReLU6 follows, but Conv2d",
    ),
    "end": (lambda self, x: self.bn(x), "its output leaves the model"),
    "collection": (
        lambda self, x: (self.bn(x), 1)[:1],
        "its output leaves Module inside a collection",
    ),
    "sum without activation": (
        lambda self, x: self.bn(x) + x,
        "an addition follows, and then nothing instead of ReLU or ReLU6",
    ),
    "sum and silu": (
        lambda self, x: F.silu(self.bn(x) + x),
        "an addition follows, and then silu instead of ReLU or ReLU6",
    ),
    "sum used twice": (
        lambda self, x: self.act(y := self.bn(x) + x) + y,
        "the sum after it is used 2 times",
    ),
    "constant": (
        lambda self, x: self.act(self.bn(x) + 1),
        "a constant is added to its output",
    ),
    "scaled sum": (
        lambda self, x: self.act(torch.add(self.bn(x), x, alpha=2)),
        "no ReLU or ReLU6 follows, but add",
    ),
    "twice itself": (
        lambda self, x: self.act((y := self.bn(x)) + y),
        "its output is added to itself",
    ),
    "into the residual": (
        into_the_residual,
        "its output is added in place to another tensor, which changes that tensor",
    ),
    "something between": (
        something_between,
        "other operations run between it and the addition",
    ),
    "draws": (
        draws,
        "Module.forward cannot be traced: it draws random numbers of its own",
    ),
    "remembers": (
        remembers,
        "Module.forward cannot be traced: it changes attributes of the module",
    ),
    "replaces": (
        replaces,
        "Module.forward cannot be traced: it changes attributes of the module",
    ),
    "branches": (
        branches,
        "Module.forward cannot be traced: symbolically traced variables cannot be used as "
        "inputs to control flow",
    ),
    "inspects": (
        inspects,
        "Module.forward cannot be traced: it asks for the type of a tensor",
    ),
    "makes": (
        makes,
        "Module.forward cannot be traced: it computes a tensor of its own with rand",
    ),
}


class TestNotFused:
    @pytest.mark.parametrize("name", NOT_FUSED)
    def test_what_might_differ_is_left_and_explained(self, name: str, calls: Calls) -> None:
        run, reason = NOT_FUSED[name]
        model = Module(run).double()
        convert_(model)
        unfused, python_random = copy.deepcopy(model), random.getstate()
        attributes = set(model.__dict__)
        report = convert_(model, example=X)
        assert not report.fused
        assert [str(item) for item in report.not_fused] == [f"bn: {reason}"]
        assert type(model) is Module
        assert random.getstate() == python_random
        if name not in ("remembers", "replaces"):  # the example itself sets those
            assert set(model.__dict__) == attributes
        assert not any(activation for activation, _ in calls)
        if name == "something between":  # writes into what backward needs
            with torch.no_grad():
                assert torch.equal(model(X), unfused(X))
        else:
            assert_same(unfused, model, X)

    def test_one_layer_called_twice_is_not_reordered(self) -> None:
        model = Module(same_layer_between).double()
        convert_(model)
        unfused = copy.deepcopy(model)
        convert_(model, example=X)
        assert_same(unfused, model, X)

    @pytest.mark.parametrize("part", ["bn", "act"])
    def test_hooks(self, part: str) -> None:
        model = Module(lambda self, x: self.act(self.bn(x))).double()
        seen: list[Tensor] = []
        model.get_submodule(part).register_forward_hook(lambda *a: seen.append(a[2]))
        report = convert_(model, example=X)
        assert not report.fused
        reason = {
            "bn": "a hook watches its output",
            "act": "no ReLU or ReLU6 follows, but ReLU with a hook",
        }
        assert [item.text for item in report.not_fused] == [reason[part]]
        seen.clear()
        model(X)
        assert len(seen) == 1

    @pytest.mark.parametrize("part", ["branch", "branch.3"])
    def test_hooks_on_modules_around_the_layer(self, part: str) -> None:
        model = Nested().double()
        model.get_submodule(part).register_forward_hook(lambda *a: a[2] * 2)
        convert_(model)
        unfused = copy.deepcopy(model)
        report = convert_(model, example=X)
        assert [item.path for item in report.fused] == ["branch.1"]
        assert "branch.3.1: a hook watches its output" in map(str, report.not_fused)
        assert_same(unfused, model, X)

    def test_a_replaced_forward(self) -> None:
        model = nn.Sequential(Module(lambda self, x: self.act(self.bn(x)))).double()
        model[0].forward = lambda x: 2 * x
        model[0](X)
        report = convert_(model, example=X)
        assert torch.equal(model(X), 2 * X)
        assert not report.fused

    def test_layers_that_the_example_does_not_reach(self) -> None:
        model = Module(lambda self, x: self.conv(x)).double()
        report = convert_(model, example=X)
        assert [item.text for item in report.not_fused] == ["the example did not reach it"]

    def test_synchronised_layers(self) -> None:
        report = convert_(nn.Sequential(L1SyncBatchNorm(4), nn.ReLU()).double(), example=X)
        assert [item.text for item in report.not_fused] == ["L1SyncBatchNorm takes no activation"]

    def test_arguments_that_are_not_tensors(self) -> None:
        class OnSets(Block):
            def forward(self, xs: set[Tensor]) -> Tensor:
                return self.act(self.bn(next(iter(xs))))

        model = OnSets().double()
        model.forward = model.forward  # so that its source cannot be used either
        report = convert_(nn.Sequential(model), example=({X},))
        assert [item.text for item in report.not_fused] == [
            "OnSets.forward cannot be traced: it is called with an argument of type set"
        ]

    def test_the_comparison_runs_the_fused_layer_in_both_modes(self, calls: Calls) -> None:
        convert_(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()).double(), example=X)
        # The example unfused and fused, and before that both versions in both modes.
        assert [activation for activation, _ in calls].count("relu") == 3
        assert [activation for activation, _ in calls].count(None) == 3

    def test_a_trace_that_is_wrong_all_the_same_is_taken_back(self) -> None:
        # type() cannot be intercepted: only running both versions shows the difference.
        model = Module(
            lambda self, x: self.act(self.bn(x)) * (2.0 if type(x) is Tensor else 1.0)
        ).double()
        report = convert_(model, example=X)
        assert not report.fused
        (item,) = report.not_fused
        assert item.text.startswith(
            "fused, Module would not be the same: in training it differs by "
        )
        assert type(model) is Module


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
