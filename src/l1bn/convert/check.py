"""Finding the layers that something turned back into batch normalization."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from l1bn.convert.report import Item, group
from l1bn.nn.batchnorm import _L1BatchNorm

#: Where a converted model keeps the names of its layers; it goes with copies and pickles.
RECORD = "_l1bn_layers"


@dataclass
class CheckReport:
    """What ``l1bn.check`` found. ``print`` it; it is true where every layer is as it should be.

    Attributes:
        model: class of the model.
        l1: names of the L1BN layers.
        turned_back: layers that were L1BN and are something else now, or lost their activation.
        others: layers of batch normalization that never were L1BN.
    """

    model: str
    l1: list[str] = field(default_factory=list)
    turned_back: list[Item] = field(default_factory=list)
    others: list[Item] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.turned_back

    def __str__(self) -> str:
        parts = [f"check: {self.model}", f"  {len(self.l1)} L1BN layers"]
        for title, items in (("turned back", self.turned_back), ("never L1BN", self.others)):
            if items:
                parts += [f"  {len(items)} {title}", *group(items, True)]
        return "\n".join(parts)


def remember(model: nn.Module) -> None:
    """Keep the names of the L1BN layers in the model, for ``check``."""
    if isinstance(model, _L1BatchNorm):
        return  # what replaces the whole model has no memory of it
    layers = [path for path, module in model.named_modules() if isinstance(module, _L1BatchNorm)]
    if layers:
        model.__dict__[RECORD] = tuple(layers)


def forget(model: nn.Module) -> None:
    """Drop what ``remember`` kept, in the model and its parts."""
    for module in model.modules():
        module.__dict__.pop(RECORD, None)


def check(model: nn.Module) -> CheckReport:
    """Find layers that something turned back into batch normalization.

    Functions that rebuild normalization layers know the classes of PyTorch only: the converters to
    ``SyncBatchNorm`` of PyTorch, timm and Lightning, split batch normalization, fusers for
    quantization. On L1BN they build BN: evaluation stays the same, training silently changes.
    Call this after such a tool, on the model or on a wrapper around it.

    Args:
        model: a converted model, or one built with L1BN layers.

    Returns:
        What was found: ``print`` it, or ask ``if not check(model)``.

    Raises:
        TypeError: not a module.

    Examples:
        >>> from torch import nn
        >>> from l1bn import check, convert_
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> _ = convert_(model)
        >>> model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        >>> print(check(model))
        check: Sequential
          0 L1BN layers
          1 turned back
              1 × is a SyncBatchNorm now: use convert_sync_, or call convert_ again
                  1
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"check: expected a torch.nn.Module, got {type(model).__name__}")
    recorded = {
        id(part): path
        for top, module in model.named_modules()
        for path in _recorded(top, module)
        if (part := _submodule(model, path)) is not None
    }
    report = CheckReport(type(model).__name__)
    for path, module in model.named_modules():
        if isinstance(module, _L1BatchNorm):
            report.l1.append(path)
        elif id(module) in recorded:
            report.turned_back.append(Item(path, _what_became(module)))
        elif isinstance(module, _BatchNorm):
            if _lost_activation(module):
                report.turned_back.append(Item(path, _what_became(module)))
            else:
                report.others.append(Item(path, f"is a {type(module).__name__}"))
    return report


def _recorded(top: str, module: nn.Module) -> list[str]:
    return [".".join(filter(None, (top, path))) for path in module.__dict__.get(RECORD, ())]


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:  # removed, or its parent is
        return None


def _lost_activation(module: nn.Module) -> bool:
    """Whether a layer holds an activation that its class does not call."""
    return type(module).__module__.startswith("torch.nn") and bool(module._modules)


def _what_became(module: nn.Module) -> str:
    name = type(module).__name__
    if _lost_activation(module):
        return f"is a {name} now, which does not call its {', '.join(module._modules)}"
    if isinstance(module, _BatchNorm):
        return f"is a {name} now: use convert_sync_, or call convert_ again"
    return f"is a {name} now"
