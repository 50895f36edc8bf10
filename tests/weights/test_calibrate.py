"""calibrate_: evaluation exactly as before, training mode as the pretrained network's."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from judge import apart, assert_close
from l1bn import L1BatchNorm2d, calibrate_, convert_, revert_
from zoo import SmallResNet, warm


def skewed(*shape: int) -> Tensor:
    return torch.randn(shape).exp()


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).detach().norm() / wanted.detach().norm())


@pytest.fixture
def pretrained() -> nn.Module:
    """A network trained for some steps as BN."""
    model = warm(SmallResNet(), 16, 3, 8, 8).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(20):
        labels = torch.randint(0, 4, (32,))
        x = skewed(32, 3, 8, 8) + labels.view(-1, 1, 1, 1)
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


class TestOneLayer:
    @pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3], ids=lambda s: f"scale={s:g}")
    def test_on_the_measured_batch_training_equals_bn(self, scale: float) -> None:
        x = scale * skewed(8, 4, 5, 5).double()
        bn = nn.BatchNorm2d(4, momentum=1.0, dtype=torch.float64)
        nn.init.uniform_(bn.weight)
        expected = bn(x)
        expected_eval = bn.eval()(x)
        convert_(bn)
        assert error(copy.deepcopy(bn).train()(x), expected) > 1e-3
        bn.train()
        calibrate_(bn, [x])
        assert bn.training
        assert_close(bn.eval()(x), expected_eval, "double")
        assert_close(bn.train()(x), expected, "double")

    def test_gaussian_data_need_no_factor(self) -> None:
        layer = L1BatchNorm2d(4)
        row = calibrate_(layer, [torch.randn(64, 4, 16, 16)]).calibrated[0]
        assert 0.99 < row.smallest <= row.median <= row.largest < 1.01

    @pytest.mark.parametrize(
        ("draw", "ratio"),
        [(lambda s: torch.rand(s), 1.0854), (lambda s: torch.empty(s).exponential_(), 0.9221)],
        ids=["uniform", "exponential"],
    )
    def test_the_factor_is_the_ratio_of_the_two_scales(self, draw: Any, ratio: float) -> None:
        layer = L1BatchNorm2d(2)
        row = calibrate_(layer, [10 * draw((64, 2, 32, 32)) for _ in range(4)]).calibrated[0]
        assert row.median == pytest.approx(ratio, rel=0.01)

    def test_the_running_variance_becomes_l1bns_own(self) -> None:
        x = skewed(64, 4, 8, 8)
        bn, l1 = nn.BatchNorm2d(4, momentum=1.0), L1BatchNorm2d(4, momentum=1.0)
        bn(x), l1(x)
        convert_(bn)
        assert apart(bn.running_var, l1.running_var) > 0.05
        calibrate_(bn, [x])
        assert_close(bn.running_var, l1.running_var, "single")

    def test_a_dead_channel_keeps_a_variance_that_is_not_negative(self) -> None:
        layer = nn.BatchNorm2d(2).eval()
        layer.running_var.zero_()
        x = torch.zeros(4, 2, 3, 3)
        x[:, 1] = skewed(4, 3, 3)
        expected = layer(x)
        convert_(layer)
        calibrate_(layer, [x])
        assert (layer.running_var >= 0).all()
        torch.testing.assert_close(layer(x), expected)


class TestModel:
    def test_on_the_measured_batch_the_whole_network_is_the_pretrained_one(
        self, pretrained: nn.Module
    ) -> None:
        x, model = skewed(32, 3, 8, 8), copy.deepcopy(pretrained)
        convert_(model)
        report = calibrate_(model, [x])
        assert len(report.calibrated) == 8
        assert error(model(x), pretrained(x)) < 1e-6
        assert error(model.train()(x), pretrained.train()(x)) < 1e-5

    def test_on_other_batches_training_mode_comes_closer(self, pretrained: nn.Module) -> None:
        def draw() -> Tensor:
            return torch.rand(256, 3, 8, 8).square() + torch.randint(0, 4, (256, 1, 1, 1))

        def apart() -> float:
            return error(copy.deepcopy(model).train()(x), copy.deepcopy(pretrained).train()(x))

        x, model = draw(), copy.deepcopy(pretrained)
        convert_(model)
        before = apart()
        calibrate_(model, [draw() for _ in range(4)])
        assert apart() < before / 2

    def test_fused_models_calibrate_the_same(self, pretrained: nn.Module) -> None:
        x = skewed(8, 3, 8, 8)
        plain, fused = pretrained, copy.deepcopy(pretrained)
        convert_(plain)
        assert convert_(fused, example=x).fused
        calibrate_(plain, [x])
        calibrate_(fused, [x])
        for key, value in plain.state_dict().items():
            torch.testing.assert_close(fused.state_dict()[key], value)

    def test_nothing_else_changes(self, pretrained: nn.Module) -> None:
        convert_(pretrained)
        pretrained.layer1.train()
        state = {key: value.clone() for key, value in pretrained.state_dict().items()}
        modes = [module.training for module in pretrained.modules()]
        parameters = [id(parameter) for parameter in pretrained.parameters()]
        calibrate_(pretrained, [skewed(8, 3, 8, 8)])
        assert [module.training for module in pretrained.modules()] == modes
        assert [id(parameter) for parameter in pretrained.parameters()] == parameters
        assert all(parameter.grad is None for parameter in pretrained.parameters())
        norms = {name for name, m in pretrained.named_modules() if isinstance(m, L1BatchNorm2d)}
        changed = {
            key for key in state if not torch.equal(state[key], pretrained.state_dict()[key])
        }
        assert changed == {f"{n}.{key}" for n in norms for key in ("weight", "running_var")}
        assert not any(module._forward_pre_hooks for module in pretrained.modules())

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda x: (x, torch.zeros(len(x))),
            lambda x: [x],
            lambda x: {"input": x},
            lambda x: x,
        ],
        ids=["pair", "list", "mapping", "tensor"],
    )
    def test_batches_as_loaders_give_them(self, wrap: Any) -> None:
        assert calibrate_(L1BatchNorm2d(4), [wrap(skewed(4, 4, 3, 3))]).batches == 1

    def test_forward_and_max_batches(self) -> None:
        def endless() -> Iterator[dict[str, Tensor]]:
            while True:
                yield {"image": skewed(4, 4, 3, 3)}

        seen: list[int] = []

        def forward(model: nn.Module, batch: dict[str, Tensor]) -> None:
            seen.append(len(batch["image"]))
            model(batch["image"])

        report = calibrate_(L1BatchNorm2d(4), endless(), forward=forward, max_batches=3)
        assert report.batches == len(seen) == 3

    def test_half_precision(self) -> None:
        layer = L1BatchNorm2d(4)
        calibrate_(layer, [skewed(8, 4, 5, 5).bfloat16()])
        assert layer.weight.dtype == torch.float32
        assert layer.weight.isfinite().all()


class TestLeft:
    def test_what_cannot_be_rescaled_is_left_and_named(self) -> None:
        class Special(L1BatchNorm2d):
            pass

        class Half(nn.Module):
            def forward(self, weight: Tensor) -> Tensor:
                return weight / 2

        class Some(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.good, self.unused = L1BatchNorm2d(4), L1BatchNorm2d(4)
                self.special, self.plain = Special(4), L1BatchNorm2d(4, affine=False)
                self.twin1, self.twin2 = L1BatchNorm2d(4), L1BatchNorm2d(4)
                self.twin2.weight = self.twin1.weight
                self.halved = L1BatchNorm2d(4)
                parametrize.register_parametrization(self.halved, "weight", Half())

            def forward(self, x: Tensor) -> Tensor:
                for layer in (self.good, self.special, self.plain, self.twin1, self.twin2):
                    x = layer(x)
                return self.halved(x)

        report = calibrate_(Some(), [skewed(4, 4, 3, 3)])
        assert [row.path for row in report.calibrated] == ["good"]
        assert {str(item) for item in report.left} == {
            "special: Special: a subclass of an L1BN layer, which may do more",
            "plain: has no γ to rescale (affine=False)",
            "twin1: shares its γ with another layer",
            "twin2: shares its γ with another layer",
            "halved: its parameters are parametrized",
            "unused: the batches did not reach it",
        }


class TestErrors:
    def test_no_layer(self) -> None:
        text = "expected a model with L1BN layers, got Sequential with none: run convert_ on it"
        with pytest.raises(ValueError, match=text):
            calibrate_(nn.Sequential(nn.BatchNorm2d(4)), [])

    def test_no_batch(self) -> None:
        with pytest.raises(ValueError, match="expected at least one batch, got none"):
            calibrate_(L1BatchNorm2d(4), [])

    def test_twice(self) -> None:
        model = nn.Sequential(nn.BatchNorm2d(4))
        convert_(model)
        calibrate_(model, [skewed(4, 4, 3, 3)])
        text = r"got 1 that were \(the first is '0'\): a second factor would spoil training mode"
        with pytest.raises(ValueError, match=text):
            calibrate_(copy.deepcopy(model), [skewed(4, 4, 3, 3)])
        revert_(model)
        convert_(model)
        with pytest.raises(ValueError, match=text):
            calibrate_(model, [skewed(4, 4, 3, 3)])

    def test_not_finite(self) -> None:
        x = skewed(4, 4, 3, 3)
        x[0, 2, 0, 0] = float("inf")
        text = r"expected finite inputs, got inf or NaN at layer '0' \(input of shape \(4, 4, 3, 3"
        with pytest.raises(ValueError, match=text):
            calibrate_(nn.Sequential(L1BatchNorm2d(4)), [x])

    def test_an_error_midway_changes_nothing(self, pretrained: nn.Module) -> None:
        convert_(pretrained)
        pretrained.train()
        state = {key: value.clone() for key, value in pretrained.state_dict().items()}

        def breaks() -> Iterator[Tensor]:
            yield skewed(4, 3, 8, 8)
            raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            calibrate_(pretrained, breaks())
        assert pretrained.training
        for key, value in pretrained.state_dict().items():
            assert torch.equal(value, state[key]), key
        assert not any(module._forward_pre_hooks for module in pretrained.modules())
