"""convert_ without an example, revert_ and convert_sync_: only classes change."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from judge import apart
from l1bn import (
    L1BatchNorm1d,
    L1BatchNorm2d,
    L1BatchNorm3d,
    L1SyncBatchNorm,
    convert_,
    convert_sync_,
    revert_,
)
from l1bn.convert import convert as converting
from zoo import SmallResNet, warm

PAIRS: list[tuple[type[nn.Module], type[nn.Module], tuple[int, ...]]] = [
    (nn.BatchNorm1d, L1BatchNorm1d, (6, 4)),
    (nn.BatchNorm1d, L1BatchNorm1d, (6, 4, 5)),
    (nn.BatchNorm2d, L1BatchNorm2d, (6, 4, 5, 3)),
    (nn.BatchNorm3d, L1BatchNorm3d, (6, 4, 5, 3, 2)),
    (nn.SyncBatchNorm, L1SyncBatchNorm, (6, 4, 5, 3)),
]


class TestOneLayer:
    @pytest.mark.parametrize(("bn", "l1", "shape"), PAIRS)
    def test_the_model_itself_changes_class_and_nothing_else(
        self, bn: Any, l1: Any, shape: tuple[int, ...]
    ) -> None:
        layer = bn(4, eps=1e-3, momentum=0.3)
        torch.nn.init.uniform_(layer.weight)
        layer.running_mean.uniform_()
        layer.running_var.uniform_(0.5, 2)
        layer.eval()
        x = torch.randn(shape)
        expected, state = layer(x), dict(layer.__dict__)
        report = convert_(layer)
        assert type(layer) is l1
        assert layer.__dict__ == state
        assert torch.equal(layer(x), expected)
        assert [str(item) for item in report.converted] == [
            f"(the model itself): {bn.__name__} → {l1.__name__}"
        ]
        revert_(layer)
        assert type(layer) is bn
        assert layer.__dict__ == state
        assert torch.equal(layer(x), expected)

    @pytest.mark.parametrize(("bn", "l1", "shape"), PAIRS[:4])
    def test_training_normalizes_by_the_mean_absolute_deviation(
        self, bn: Any, l1: Any, shape: tuple[int, ...]
    ) -> None:
        layer, fresh, x = bn(4), l1(4), torch.randn(shape)
        convert_(layer)
        assert torch.equal(layer(x), fresh(x))
        assert torch.equal(layer.running_var, fresh.running_var)
        assert apart(layer(x), bn(4)(x)) > 1e-3

    @pytest.mark.parametrize(
        "options",
        [{"affine": False}, {"momentum": None}, {"dtype": torch.float64}, {"device": "meta"}],
        ids=str,
    )
    def test_options_stay(self, options: dict[str, Any]) -> None:
        layer = nn.BatchNorm2d(4, **options)
        text = layer.extra_repr()
        convert_(layer)
        assert layer.extra_repr() == text
        for tensor in [*layer.parameters(), layer.running_mean]:
            assert tensor.dtype == options.get("dtype", torch.float32)
            assert tensor.device.type == options.get("device", "cpu")

    def test_no_running_statistics_is_said(self) -> None:
        model = nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4))
        assert any(note.startswith("1 of them evaluate") for note in convert_(model).notes)

    def test_a_parametrized_layer_stays_parametrized(self) -> None:
        class Positive(nn.Module):
            def forward(self, weight: torch.Tensor) -> torch.Tensor:
                return weight.exp()

        layers = nn.ModuleList([nn.BatchNorm2d(4)])
        parametrize.register_parametrization(layers[0], "weight", Positive())
        layers.append(copy.deepcopy(layers[0]))
        layers.eval()
        x = torch.randn(2, 4, 3, 3)
        expected, keys = layers[0](x), list(layers.state_dict())
        convert_(layers[0])
        assert isinstance(layers[0], L1BatchNorm2d)
        assert not isinstance(layers[1], L1BatchNorm2d)  # shares the parametrized class
        assert parametrize.is_parametrized(layers[0], "weight")
        assert torch.equal(layers[0](x), expected)
        assert list(layers.state_dict()) == keys
        revert_(layers[0])
        assert isinstance(layers[0], nn.BatchNorm2d)
        assert torch.equal(layers[0](x), expected)


class TestModel:
    def test_evaluation_is_the_same_to_the_last_bit_both_ways(self) -> None:
        model, x = warm(SmallResNet(), 4, 3, 8, 8), torch.randn(2, 3, 8, 8)
        expected, tree, state = model(x), repr(model), model.state_dict()
        report = convert_(model)
        assert len(report.converted) == 8
        assert not any(type(module) is nn.BatchNorm2d for module in model.modules())
        with torch.no_grad():
            assert torch.equal(model(x), expected)
        assert list(model.state_dict()) == list(state)
        report = revert_(model)
        assert len(report.converted) == 8
        assert torch.equal(model(x), expected)
        assert repr(model) == tree

    def test_checkpoints_move_both_ways(self) -> None:
        bn, l1 = warm(SmallResNet(), 4, 3, 8, 8), warm(SmallResNet(), 4, 3, 8, 8)
        convert_(l1, fuse=False)
        x = torch.randn(2, 3, 8, 8)
        l1.load_state_dict(bn.state_dict())
        assert torch.equal(l1(x), bn(x))
        fresh = SmallResNet().eval()
        fresh.load_state_dict(l1.state_dict())
        assert torch.equal(fresh(x), bn(x))

    def test_an_optimizer_built_before_still_trains_the_layers(self) -> None:
        model = SmallResNet()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        convert_(model)
        before = model.stem[1].weight.clone()
        model(torch.randn(4, 3, 8, 8)).square().sum().backward()
        optimizer.step()
        assert not torch.equal(model.stem[1].weight, before)

    def test_mode_freezing_and_hooks_stay(self) -> None:
        model = SmallResNet()
        bn = model.stem[1].eval()
        bn.weight.requires_grad_(False)
        calls: list[str] = []
        bn.register_forward_pre_hook(lambda *_: calls.append("pre"))
        bn.register_forward_hook(lambda *_: calls.append("forward"))
        bn.register_full_backward_hook(lambda *_: calls.append("backward"))
        bn.register_state_dict_post_hook(lambda *_: calls.append("state"))
        convert_(model)
        assert model.stem[1] is bn
        assert not bn.training
        assert model.layer2.bn1.training
        assert not bn.weight.requires_grad
        assert bn.bias.requires_grad
        model(torch.randn(4, 3, 8, 8)).sum().backward()
        model.state_dict()
        assert calls == ["pre", "forward", "backward", "state"]

    def test_a_shared_layer_stays_shared(self) -> None:
        shared = nn.BatchNorm2d(4)
        model = nn.Sequential(shared, nn.Conv2d(4, 4, 1), shared)
        report = convert_(model)
        assert model[0] is model[2]
        assert type(model[2]) is L1BatchNorm2d
        assert len(report.converted) == 1

    def test_copies_and_pickles_revert_too(self) -> None:
        model = warm(SmallResNet(), 4, 3, 8, 8)
        x = torch.randn(2, 3, 8, 8)
        expected = model(x)
        convert_(model)
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert len(revert_(copied).converted) == 8
            assert torch.equal(copied(x), expected)

    def test_converting_twice_changes_nothing(self) -> None:
        model = SmallResNet()
        convert_(model)
        report = convert_(model)
        assert not report.converted
        assert {item.text for item in report.left} == {"L1BatchNorm2d: is L1BN already"}

    def test_layers_built_as_l1bn_revert_and_lose_their_backend(self) -> None:
        layer = L1BatchNorm2d(4)
        layer.backend = "eager"
        revert_(layer)
        assert type(layer) is nn.BatchNorm2d
        assert "backend" not in layer.__dict__


class TestLeft:
    def test_subclasses_lazy_layers_and_strangers_are_left_and_named(self) -> None:
        class Special(nn.BatchNorm2d):
            pass

        class FrozenBatchNorm2d(nn.Module):
            pass

        model = nn.Sequential(
            Special(4), nn.LazyBatchNorm2d(), FrozenBatchNorm2d(), nn.InstanceNorm2d(4)
        )
        types = [type(module) for module in model]
        report = convert_(model)
        assert [type(module) for module in model] == types
        assert not report.converted
        assert [str(item) for item in report.left] == [
            "0: Special: a subclass of BatchNorm2d, which may do more",
            "1: LazyBatchNorm2d: has no parameters yet: run the model once, then convert",
            "2: FrozenBatchNorm2d: not one of PyTorch's batch normalization layers",
        ]

    def test_a_subclass_of_an_l1bn_layer_is_left_by_revert(self) -> None:
        class Special(L1BatchNorm2d):
            pass

        model = nn.Sequential(Special(4), L1BatchNorm2d(4))
        report = revert_(model)
        assert [type(module) for module in model] == [Special, nn.BatchNorm2d]
        assert [str(item) for item in report.left] == [
            "0: Special: a subclass of an L1BN layer, which may do more"
        ]

    def test_a_lazy_layer_converts_after_its_first_run(self) -> None:
        model = nn.Sequential(nn.LazyBatchNorm2d())
        model(torch.randn(2, 4, 3, 3))
        convert_(model)
        assert type(model[0]) is L1BatchNorm2d


class TestAtomic:
    def test_an_error_midway_leaves_the_model_as_it_was(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = SmallResNet()
        tree = repr(model)
        done: list[str] = []

        def fails_at_the_fifth(module: nn.Module, cls: type[nn.Module]) -> None:
            if len(done) == 4:
                raise RuntimeError("no more")
            done.append(module)
            module.__class__ = cls

        monkeypatch.setattr(converting, "become", fails_at_the_fifth)
        with pytest.raises(RuntimeError, match="no more"):
            convert_(model)
        assert len(done) == 4
        assert repr(model) == tree


class TestSync:
    def test_l1bn_becomes_synchronised_and_reverts_to_sync_bn(self) -> None:
        model = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(36))
        convert_(model)
        weight = model[0].weight
        report = convert_sync_(model, process_group="group")
        assert [str(item) for item in report.converted] == [
            "0: L1BatchNorm2d → L1SyncBatchNorm",
            "3: L1BatchNorm1d → L1SyncBatchNorm",
        ]
        assert type(model[0]) is L1SyncBatchNorm
        assert model[0].process_group == "group"
        assert model[0].weight is weight
        revert_(model)
        assert type(model[0]) is nn.SyncBatchNorm

    def test_outside_a_process_group_it_computes_the_same(self) -> None:
        model = warm(SmallResNet(), 4, 3, 8, 8)
        convert_(model, fuse=False)
        twin = copy.deepcopy(model)
        convert_sync_(twin)
        x = torch.randn(4, 3, 8, 8)
        for mode in (True, False):
            assert torch.equal(model.train(mode)(x), twin.train(mode)(x))

    def test_plain_bn_is_left_and_a_layer_with_activation_keeps_it(self) -> None:
        from l1bn import L1BatchNormAct2d, L1SyncBatchNormAct2d

        model = nn.Sequential(nn.BatchNorm2d(4), L1BatchNormAct2d(4))
        act = model[1].act
        report = convert_sync_(model)
        assert type(model[1]) is L1SyncBatchNormAct2d
        assert model[1].act is act
        assert [item.path for item in report.converted] == ["1"]
        assert [item.path for item in report.left] == ["0"]
        assert "run convert_ first" in str(report)
