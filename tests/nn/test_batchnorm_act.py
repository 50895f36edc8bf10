"""L1BatchNormAct2d: timm's signature, and the same function fused or not."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from l1bn import L1BatchNorm2d, L1BatchNormAct2d

TIMM_SIGNATURE = [
    "num_features", "eps", "momentum", "affine", "track_running_stats", "apply_act", "act_layer",
    "act_kwargs", "inplace", "drop_layer", "device", "dtype",
]  # fmt: skip


def test_signature_keys_and_submodules_are_timms() -> None:
    assert list(inspect.signature(L1BatchNormAct2d).parameters) == TIMM_SIGNATURE
    layer = L1BatchNormAct2d(4)
    assert list(layer.state_dict()) == list(nn.BatchNorm2d(4).state_dict())
    assert type(layer.act) is nn.ReLU
    assert type(layer.drop) is nn.Identity
    assert type(L1BatchNormAct2d(4, apply_act=False).act) is nn.Identity


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize(
    ("act", "kwargs"),
    [
        (nn.ReLU, None),
        (nn.ReLU6, None),
        ("relu", None),
        (nn.GELU, None),
        ("leaky_relu", {"negative_slope": 0.3}),
        (None, None),
    ],
)
def test_equals_the_layers_one_by_one(act, kwargs, with_residual: bool, training: bool) -> None:
    layer = L1BatchNormAct2d(4, act_layer=act, act_kwargs=kwargs).double().train(training)
    plain = L1BatchNorm2d(4).double().train(training)
    plain.load_state_dict(layer.state_dict())
    x, z = (torch.randn(3, 4, 5, 5, dtype=torch.float64).requires_grad_() for _ in range(2))
    z.data.copy_(x.data)
    residual = torch.randn(3, 4, 5, 5, dtype=torch.float64) if with_residual else None
    y = layer(x, residual)
    act_module: Any = layer.act if not hasattr(layer.act, "inplace") else type(layer.act)()
    if kwargs:
        act_module.negative_slope = 0.3
    want = plain(z)
    want = act_module(want if residual is None else want + residual)
    torch.testing.assert_close(y, want)
    grad = torch.randn_like(y)
    y.backward(grad), want.backward(grad)
    torch.testing.assert_close(x.grad, z.grad)
    torch.testing.assert_close(layer.running_var, plain.running_var)


def test_a_hook_on_the_activation_is_called() -> None:
    layer, seen = L1BatchNormAct2d(4), []
    layer.act.register_forward_hook(lambda module, args, out: seen.append(out))
    y = layer(torch.randn(2, 4, 3, 3))
    assert seen[0] is y
    assert (y >= 0).all()


def test_drop_layer_comes_before_the_activation() -> None:
    layer = L1BatchNormAct2d(4, drop_layer=lambda: nn.Dropout(1.0))
    residual = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(layer(torch.randn(2, 4, 3, 3), residual), residual.relu())


def test_residual_of_another_dtype_is_promoted_as_without_fusion() -> None:
    layer = L1BatchNormAct2d(4)
    x, residual = torch.randn(2, 2, 4, 3, 3)
    y = layer(x.bfloat16(), residual)
    assert y.dtype == torch.float32


def test_unknown_activation_name() -> None:
    with pytest.raises(ValueError, match=r"expected act_layer to be a module class.*'nope'"):
        L1BatchNormAct2d(4, act_layer="nope")


@pytest.mark.parametrize("part", ["act", "drop"])
def test_a_replaced_forward_is_called(part: str) -> None:
    layer, x = L1BatchNormAct2d(3), torch.randn(4, 3, 5, 5)
    seen: list[torch.Tensor] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x * 2

    layer.get_submodule(part).forward = forward
    plain = L1BatchNorm2d(3)(x) * 2
    torch.testing.assert_close(layer(x), plain if part == "act" else plain.relu())
    assert len(seen) == 1
