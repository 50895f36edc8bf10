"""What a converted model knows of its layers: it goes with copies, wrappers and pickles."""

from __future__ import annotations

from torch import nn

from l1bn.nn.batchnorm import _L1BatchNorm

#: Where a converted model keeps the names of its layers, each with its class.
_RECORD = "_l1bn_record"


def remember(model: nn.Module) -> None:
    """Keep the names of the L1BN layers in the model."""
    if isinstance(model, _L1BatchNorm):
        return  # what replaces the whole model has no memory of it
    layers = {
        path: next(cls.__name__ for cls in type(module).__mro__ if cls.__module__[:4] == "l1bn")
        for path, module in model.named_modules()
        if isinstance(module, _L1BatchNorm)
    }
    if layers:
        model.__dict__[_RECORD] = layers


def forget(model: nn.Module) -> None:
    """Drop what ``remember`` kept, in the model and its parts."""
    for module in model.modules():
        module.__dict__.pop(_RECORD, None)


def recorded(model: nn.Module) -> dict[int, str]:
    """What stands where an L1BN layer was: its ``id``, and the class that the layer had."""
    found: dict[int, str] = {}
    for module in model.modules():
        for path, name in module.__dict__.get(_RECORD, {}).items():
            part = _submodule(module, path)
            if part is not None:
                found[id(part)] = name
    return found


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:  # removed, or its parent is
        return None
