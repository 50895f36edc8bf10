"""Refuses float networks that do more than their layers say: hooks, parametrizations, overrides."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrize

from l1bn.nn import (
    L1BatchNorm1d,
    L1BatchNorm2d,
    L1BatchNorm3d,
    L1BatchNormAct2d,
    L1SyncBatchNorm,
)
from l1bn.nn.fusable import HOOKS
from l1bn.quantized.reading.spellings import UnsupportedError

_REMOVE = {
    "BasePruningMethod": (
        "pruning of {0}",
        "make it permanent with torch.nn.utils.prune.remove(layer, '{0}'); pruned weights then "
        "train like the others",
    ),
    "SpectralNorm": ("spectral_norm", "call torch.nn.utils.remove_spectral_norm(layer)"),
    "WeightNorm": ("weight_norm", "call torch.nn.utils.remove_weight_norm(layer)"),
}
_PLAIN = (
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    L1BatchNorm1d,
    L1BatchNorm2d,
    L1BatchNorm3d,
    L1BatchNormAct2d,
    L1SyncBatchNorm,
)
_KINDS = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)


def refuse_additions(model: nn.Module) -> None:
    """Refuse what changes a layer's result or gradient beside its own forward.

    The integer network is built from the layers' types and numbers, and runs no code of theirs.

    Raises:
        UnsupportedError: It names the layer, what it has and how to take it away.
    """
    for name, module in model.named_modules():
        title = f"{name or 'network'} ({type(module).__name__})"
        _refuse_parametrizations(title, module)
        _refuse_hooks(title, module)
        _refuse_overrides(title, module)
        for key, parameter in module.named_parameters(recurse=False):
            _refuse_parameter_hooks(f"{title}.{key}", parameter)


def _refuse_parametrizations(title: str, module: nn.Module) -> None:
    if not parametrize.is_parametrized(module):
        return
    for key, steps in module.parametrizations.items():  # type: ignore[union-attr, operator]
        kinds = ", ".join(type(step).__name__ for step in steps)
        raise UnsupportedError(
            f"{title}: expected plain weights, got {key} parametrized by {kinds}; make it "
            f"permanent with torch.nn.utils.parametrize.remove_parametrizations(layer, '{key}')"
        )


def _refuse_hooks(title: str, module: nn.Module) -> None:
    for attribute, kind in HOOKS.items():
        for hook in getattr(module, attribute).values():
            what, way = _known_hook(hook) or (f"a {kind}", "remove it: integer training runs none")
            raise UnsupportedError(f"{title}: expected a layer without hooks, got {what}; {way}")


def _known_hook(hook: object) -> tuple[str, str] | None:
    for base in type(hook).__mro__:
        if base.__name__ in _REMOVE:
            what, way = _REMOVE[base.__name__]
            key = getattr(hook, "_tensor_name", "weight")
            return what.format(key), way.format(key)
    return None


def _refuse_overrides(title: str, module: nn.Module) -> None:
    if "forward" in vars(module):
        raise UnsupportedError(
            f"{title}: expected the forward of its type, got one of its own; delete "
            "layer.forward, or build the network without it"
        )
    if not isinstance(module, _KINDS):
        return
    if not _is_norm_act(type(module)) and not any(_same(type(module), p) for p in _PLAIN):
        raise UnsupportedError(
            f"{title}: expected a layer of torch.nn or l1bn, got a subclass whose forward is "
            "another; replace it by the layer that it comes from"
        )


def _is_norm_act(kind: type[nn.Module]) -> bool:
    """Whether its forward is that of timm's BatchNormAct2d, whose activation is read by name."""
    owner = next(base for base in kind.__mro__ if "forward" in vars(base))
    return owner.__name__ == "BatchNormAct2d" and issubclass(kind, nn.BatchNorm2d)


def _same(kind: type[nn.Module], plain: type[nn.Module]) -> bool:
    names = ("forward", "_conv_forward")
    return issubclass(kind, plain) and all(
        getattr(kind, n, None) is getattr(plain, n, None) for n in names
    )


def _refuse_parameter_hooks(title: str, parameter: Tensor) -> None:
    if any(True for _ in _tensor_hooks(parameter)):
        raise UnsupportedError(
            f"{title}: expected a parameter without hooks, got one with a gradient hook; remove "
            "it: integer training runs none"
        )


def _tensor_hooks(parameter: Tensor) -> Iterator[Callable[..., object]]:
    for attribute in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        yield from (getattr(parameter, attribute, None) or {}).values()
