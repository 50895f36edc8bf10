from __future__ import annotations

import pytest
import torch
from torch import nn

from judge import assert_close
from l1bn.errors import UserError
from l1bn.nn import L1BatchNormAct2d
from l1bn.recipes.models import MODELS, BatchNormAct2d, ModelSpec, build_model, norm_factory

SPEC = ModelSpec(in_channels=3, image_size=16, num_classes=5, width=0.25)


def build(name: str, norm: str, spec: ModelSpec = SPEC) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, norm, spec)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MODELS)
def test_both_norms_give_one_architecture(name: str) -> None:
    l1, l2 = build(name, "l1"), build(name, "l2")
    assert list(l1.state_dict()) == list(l2.state_dict())
    for key, value in l1.state_dict().items():
        assert torch.equal(value, l2.state_dict()[key]), key
    for model, kind in ((l1, L1BatchNormAct2d), (l2, BatchNormAct2d)):
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | L1BatchNormAct2d)]
        assert norms
        assert {type(m) for m in norms} == {kind}


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_moves_both_ways_without_changing_evaluation(name: str) -> None:
    x = torch.randn(4, 3, 16, 16)
    for source, target in (("l1", "l2"), ("l2", "l1")):
        trained, other = build(name, source), build(name, target)
        trained(x)  # fills the running statistics
        other.load_state_dict(trained.state_dict())
        expected, got = trained.eval()(x), other.eval()(x)
        assert expected.shape == (4, 5)
        assert_close(got, expected, "order")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_every_parameter_gets_a_gradient(name: str, norm: str) -> None:
    model = build(name, norm)
    loss = nn.functional.cross_entropy(model(torch.randn(6, 3, 16, 16)), torch.arange(6) % 5)
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize(("name", "expected"), [("resnet18", 11_181_642), ("resnet50", 23_528_522)])
def test_imagenet_forms_have_the_published_size(name: str, expected: int) -> None:
    model = build(name, "l2", ModelSpec(in_channels=3, image_size=224, num_classes=10))
    assert sum(p.numel() for p in model.parameters()) == expected


def test_resnet20_has_the_published_size_but_for_its_projections() -> None:
    model = build("resnet20", "l2", ModelSpec(in_channels=3, image_size=32, num_classes=10))
    projections = [p for n, p in model.named_parameters() if "shortcut" in n]
    total = sum(p.numel() for p in model.parameters())
    assert total - sum(p.numel() for p in projections) == 269_722  # 0.27 M in the paper
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == 19


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_layer_adds_the_residual_before_the_activation(norm: str, activation: str) -> None:
    layer = norm_factory(norm)(4, activation).eval()  # type: ignore[arg-type]
    x, residual = 5 * torch.randn(2, 2, 4, 6, 6)
    scaled = x / (1 + layer.eps) ** 0.5 + residual
    expected = {None: scaled, "relu": scaled.relu(), "relu6": nn.functional.relu6(scaled)}
    torch.testing.assert_close(layer(x, residual), expected[activation])


def test_errors_name_what_is_there() -> None:
    with pytest.raises(UserError, match=r'got "resnet21"; did you mean "resnet20"\?'):
        build("resnet21", "l1")
    with pytest.raises(ValueError, match=r"expected norm to be one of \('l1', 'l2'\), got \"l3\""):
        norm_factory("l3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 8 pixels for vgg7, got 7"):
        build("vgg7", "l1", ModelSpec(1, 7, 2))
