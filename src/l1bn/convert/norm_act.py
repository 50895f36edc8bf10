"""One normalization layer with the residual and the activation that a model puts after it."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from l1bn.functional import Activation, l1_batch_norm_pair
from l1bn.nn import L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d, L1BatchNormAct2d
from l1bn.nn.batchnorm import _L1BatchNorm
from l1bn.nn.fusable import activation_of, is_watched

_PLAIN = (L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d)
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "relu6": F.relu6}


def is_fusable_norm(module: nn.Module | None) -> bool:
    """Whether an activation can move into this layer."""
    if type(module) in _PLAIN:
        return True
    return type(module) is L1BatchNormAct2d and all(
        type(part) is nn.Identity and not is_watched(part) for part in (module.drop, module.act)
    )


def norm_act(
    norm: _L1BatchNorm, act: nn.Module | str, x: Tensor, residual: Tensor | None = None
) -> Tensor:
    """Compute ``act(norm(x) + residual)``, in one call where that is the same function.

    Args:
        norm: normalization layer.
        act: activation layer, or ``"relu"`` or ``"relu6"``.
        x: the layer's input.
        residual: what the model adds before the activation.

    Shape:
        - x, output: :math:`(N, C, *)`
        - residual: anything that broadcasts with x; fused only where it is like x
    """
    activation = _name(act)
    if (
        activation is not None
        and is_fusable_norm(norm)
        and not is_watched(norm)
        and (residual is None or _alike(residual, x))
    ):
        return norm._normalize(x, activation, residual)
    y = norm(x)
    if residual is not None:
        y = y + residual
    return _FUNCTIONS[act](y) if isinstance(act, str) else act(y)


def norm_act_pair(
    norm: _L1BatchNorm, act: nn.Module | str, x: Tensor, other: _L1BatchNorm, other_x: Tensor
) -> Tensor:
    """Compute ``act(norm(x) + other(other_x))``, in one call where that is the same function.

    Args:
        norm: normalization layer.
        act: activation layer, or ``"relu"`` or ``"relu6"``.
        x: the layer's input.
        other: normalization layer of the shortcut.
        other_x: its input.

    Shape:
        - x, other_x, output: :math:`(N, C, *)`
    """
    activation = _name(act)
    one_call = (
        activation is not None
        and norm is not other
        and norm.backend == other.backend
        and all(_joins(layer) for layer in (norm, other))
        and _alike(other_x, x)
    )
    if activation is None or not one_call:
        return norm_act(norm, act, x, other(other_x))
    branches = norm._branch(x), other._branch(other_x)
    y = l1_batch_norm_pair(*branches, activation, norm.backend)
    norm._count()
    other._count()
    return y


def _name(act: nn.Module | str) -> Activation | None:
    return act if isinstance(act, str) else activation_of(act)  # type: ignore[return-value]


def _joins(norm: _L1BatchNorm) -> bool:
    """Whether its own call may be left out; `calibrate_` measures in it."""
    return is_fusable_norm(norm) and not is_watched(norm) and norm.override is None


def _alike(residual: Tensor, x: Tensor) -> bool:
    return residual.shape == x.shape and residual.dtype == x.dtype and residual.device == x.device
