"""L1BN with the activation and the residual addition that follow it, in one call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from l1bn.nn.batchnorm import L1BatchNorm2d, _leaf
from l1bn.nn.fusable import activation_of, is_identity
from l1bn.nn.timm_base import join_timm

if TYPE_CHECKING:
    from torch.types import Device

_BY_NAME: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "mish": nn.Mish,
    "gelu": nn.GELU,
    "gelu_tanh": functools.partial(nn.GELU, approximate="tanh"),
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_swish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


class L1BatchNormAct2d(L1BatchNorm2d):
    """L1-norm batch normalization, residual addition and activation of a 4D input.

    Takes the arguments of timm's ``BatchNormAct2d`` and has its submodules ``drop`` and ``act``.
    An activation of ``l1bn.functional.ACTIVATIONS`` is computed together with the normalization;
    any other runs after it. Its state-dict keys are those of ``torch.nn.BatchNorm2d``. Where timm
    is loaded the class is one of timm's ``BatchNormAct2d`` too, so that timm's own functions keep
    its activation.

    Args:
        num_features: channels ``C``.
        eps: floor of the variance.
        momentum: weight of a batch in the running statistics, ``None`` for a cumulative average.
        affine: learn γ (``weight``) and β (``bias``).
        track_running_stats: keep running statistics for evaluation.
        apply_act: apply the activation; otherwise ``act`` is the identity.
        act_layer: class, factory or timm name of the activation, ``None`` for the identity.
        act_kwargs: arguments for ``act_layer``.
        inplace: let an activation that is not fused work in place, where it can.
        drop_layer: class of a layer between normalization and activation.
        device: device of parameters and buffers.
        dtype: dtype of parameters and buffers.

    Shape:
        - Input, residual, output: ``(N, C, H, W)``

    Raises:
        ValueError: an unknown activation name, or as ``L1BatchNorm2d``.

    Examples:
        >>> import torch
        >>> layer = L1BatchNormAct2d(8)
        >>> x, shortcut = torch.randn(2, 4, 8, 6, 6)
        >>> bool((layer(x, residual=shortcut) >= 0).all())
        True

    Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        apply_act: bool = True,
        act_layer: str | Callable[..., nn.Module] | None = nn.ReLU,
        act_kwargs: Mapping[str, object] | None = None,
        inplace: bool = True,
        drop_layer: Callable[[], nn.Module] | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        join_timm(L1BatchNormAct2d, L1BatchNorm2d)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype
        )
        self.drop = nn.Identity() if drop_layer is None else drop_layer()
        self.act = _create_act(act_layer if apply_act else None, act_kwargs, inplace)

    def __setstate__(self, state: dict[str, object]) -> None:
        join_timm(L1BatchNormAct2d, L1BatchNorm2d)
        super().__setstate__(state)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Compute ``act(drop(norm(x)) + residual)``."""
        if torch.jit.is_scripting():
            z = self.drop(self._scripted(x, None))
            return self.act(z if residual is None else z + residual)
        if isinstance(x, Proxy):
            return _leaf(self, x, residual)
        activation = activation_of(self.act)
        plain_drop = is_identity(self.drop)
        same = residual is None or (residual.dtype == x.dtype and residual.device == x.device)
        if activation is not None and plain_drop and same:
            return self._normalize(x, activation, residual)
        if plain_drop and same:
            return self.act(self._normalize(x, None, residual))
        y = self.drop(self._normalize(x))
        return self.act(y if residual is None else y + residual)


def _create_act(
    act_layer: str | Callable[..., nn.Module] | None,
    act_kwargs: Mapping[str, object] | None,
    inplace: bool,
) -> nn.Module:
    if act_layer is None:
        return nn.Identity()
    if isinstance(act_layer, str):
        if act_layer not in _BY_NAME:
            raise ValueError(
                f"expected act_layer to be a module class or one of {sorted(_BY_NAME)}, "
                f"got {act_layer!r}: pass the class itself"
            )
        act_layer = _BY_NAME[act_layer]
    kwargs = dict(act_kwargs or {})
    try:
        return act_layer(**{"inplace": inplace, **kwargs})
    except TypeError:  # an activation without an `inplace` argument, such as GELU
        return act_layer(**kwargs)
