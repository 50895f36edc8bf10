"""timm's BatchNormAct2d, in timm's own code."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from judge import assert_close
from l1bn import L1BatchNorm2d, L1BatchNormAct2d, convert_, revert_

NAME = "timm.layers.norm_act"


@pytest.fixture
def batch_norm_act(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class. timm needs torchvision, which has no build for every PyTorch: without it only
    timm.layers is loaded, and the one class that it takes from torchvision is left empty.
    """
    spec = importlib.util.find_spec("timm")
    if spec is None:
        pytest.skip("timm is not installed")
    if importlib.util.find_spec("torchvision") is not None:
        yield importlib.import_module(NAME).BatchNormAct2d
        return
    before = set(sys.modules)
    package = types.ModuleType("timm")
    package.__path__ = list(spec.submodule_search_locations or [])
    misc = types.ModuleType("torchvision.ops.misc")
    vars(misc)["FrozenBatchNorm2d"] = type("FrozenBatchNorm2d", (nn.Module,), {})
    monkeypatch.setitem(sys.modules, "timm", package)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.ops", types.ModuleType("torchvision.ops"))
    monkeypatch.setitem(sys.modules, "torchvision.ops.misc", misc)
    yield importlib.import_module(NAME).BatchNormAct2d
    for name in set(sys.modules) - before:
        if name.startswith("timm."):
            del sys.modules[name]


X = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "options",
    [{}, {"apply_act": False}, {"act_layer": nn.SiLU}, {"drop_layer": nn.Dropout}],
    ids=["relu", "no-activation", "silu", "drop"],
)
def test_converted_and_reverted(batch_norm_act: Any, options: dict[str, Any]) -> None:
    layer = batch_norm_act(3, **options)
    nn.init.uniform_(layer.weight)
    layer(X)
    layer.eval()
    expected, tree, state = layer(X), repr(layer), copy.deepcopy(layer.state_dict())
    report = convert_(layer)
    assert [item.text for item in report.converted] == ["BatchNormAct2d → L1BatchNormAct2d"]
    assert type(layer) is L1BatchNormAct2d
    assert list(layer.state_dict()) == list(state)
    assert_close(layer(X), expected, "single")
    plain = L1BatchNorm2d(3)
    plain.load_state_dict(state)
    layer.train(), plain.train()
    if "drop_layer" not in options:
        torch.testing.assert_close(layer(X), layer.act(plain(X)))
    layer.load_state_dict(state)
    revert_(layer.eval())
    assert type(layer) is batch_norm_act
    assert repr(layer) == tree
    assert torch.equal(layer(X), expected)


def test_the_addition_after_it_is_fused(batch_norm_act: Any) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), batch_norm_act(3, apply_act=False)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.conv(x))  # keeps it; another residual would save nothing
            return self.act(self.bn(self.conv(x)) + x)

    block = Block().eval()
    expected = block(X)
    report = convert_(block, example=X)
    assert [item.text for item in report.fused] == ["L1BatchNormAct2d → add → ReLU"]
    torch.testing.assert_close(block(X), expected)


def test_a_layer_with_its_own_activation_is_not_reported(batch_norm_act: Any) -> None:
    report = convert_(nn.Sequential(batch_norm_act(3), nn.ReLU()), example=X)
    assert not report.fused
    assert not report.not_fused


def test_a_subclass_is_left(batch_norm_act: Any) -> None:
    class Special(batch_norm_act):
        pass

    report = convert_(nn.Sequential(Special(3)))
    assert [item.text for item in report.left] == [
        "Special: a subclass of BatchNorm2d, which may do more"
    ]


def test_without_timm_a_layer_cannot_be_reverted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NAME, None)
    model = nn.Sequential(L1BatchNormAct2d(3))
    report = revert_(model)
    assert type(model[0]) is L1BatchNormAct2d
    assert [item.text for item in report.left] == [
        "L1BatchNormAct2d: its counterpart needs timm: install it"
    ]
