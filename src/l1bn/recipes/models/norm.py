"""The normalization a model is built with: norm, residual addition and activation in one layer."""

from __future__ import annotations

from typing import Literal, Protocol, cast

import torch
from torch import nn

from l1bn.nn import L1BatchNormAct2d
from l1bn.recipes.names import NORMS, NormName

Activation = Literal["relu", "relu6"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6}


class NormFactory(Protocol):
    """Builds one layer computing ``activation(norm(x) + residual)``."""

    def __call__(
        self, num_features: int, activation: Activation | None = "relu"
    ) -> nn.Module:  # pragma: no cover - a protocol
        """Return the layer; its ``forward`` takes ``(x, residual=None)``."""
        ...


class BatchNormAct2d(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d``, then the addition, then the activation: the usual baseline.

    It has the interface and the state-dict keys of ``l1bn.nn.L1BatchNormAct2d``, so that one model
    definition and one checkpoint serve both.

    Args:
        num_features: Channels C.
        activation: Applied last, in place; None for none.

    Shape:
        - input and residual: ``(N, C, H, W)``
        - output: ``(N, C, H, W)``
    """

    def __init__(self, num_features: int, activation: Activation | None = "relu") -> None:
        super().__init__(num_features)
        self.act = nn.Identity() if activation is None else _ACTIVATIONS[activation](inplace=True)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``act(batch_norm(x) + residual)``."""
        y = super().forward(x)
        if residual is not None:
            y += residual
        return cast(torch.Tensor, self.act(y))


class SyncBatchNormAct2d(nn.SyncBatchNorm):
    """``BatchNormAct2d`` with the statistics of all processes; on GPUs only.

    Made of one by changing its class.

    Shape:
        - input and residual: (N, C, H, W)
        - output: (N, C, H, W)
    """

    act: nn.Module

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``act(batch_norm(x) + residual)``."""
        y = super().forward(x)
        if residual is not None:
            y = y + residual
        return cast(torch.Tensor, self.act(y))


def _l1(num_features: int, activation: Activation | None = "relu") -> nn.Module:
    if activation is None:
        return L1BatchNormAct2d(num_features, apply_act=False)
    return L1BatchNormAct2d(num_features, act_layer=_ACTIVATIONS[activation])


def norm_factory(name: NormName) -> NormFactory:
    """Return the factory for ``name``.

    Args:
        name: ``"l1"`` for the fused L1BN layer, ``"l2"`` for BatchNorm followed by the addition and
            the activation as separate operations.

    Raises:
        ValueError: If ``name`` is neither.
    """
    if name == "l1":
        return _l1
    if name == "l2":
        return BatchNormAct2d
    raise ValueError(f'expected norm to be one of {NORMS}, got "{name}"')
