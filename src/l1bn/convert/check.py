"""Finding the layers that something turned back into batch normalization."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from l1bn.convert.record import recorded
from l1bn.convert.replace import is_convertible
from l1bn.model.report import Item, group
from l1bn.nn.batchnorm import _L1BatchNorm


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
    known = recorded(model)
    report = CheckReport(type(model).__name__)
    inside: set[int] = set()  # parts of layers that were listed
    for path, module in model.named_modules():
        if id(module) in inside:
            continue
        if isinstance(module, _L1BatchNorm):
            report.l1.append(path)
        elif _turned_back(module, known):
            report.turned_back.append(Item(path, _what_became(module, known)))
            inside.update(id(part) for part in module.modules())
        elif isinstance(module, _BatchNorm):
            report.others.append(Item(path, f"is a {type(module).__name__}"))
    return report


def _turned_back(module: nn.Module, known: dict[int, str]) -> bool:
    if isinstance(module, _BatchNorm) and _lost_activation(module):
        return True
    # What wraps the layer, as peft does, has it still.
    return id(module) in known and not any(isinstance(m, _L1BatchNorm) for m in module.modules())


def _lost_activation(module: nn.Module) -> bool:
    """Whether a layer holds an activation that its class does not call."""
    return type(module).__module__.startswith("torch.nn") and bool(module._modules)


def _what_became(module: nn.Module, known: dict[int, str]) -> str:
    name = type(module).__name__
    if _lost_activation(module):
        return f"is a {name} now, which does not call its {', '.join(module._modules)}"
    if is_convertible(module, known):
        return f"is a {name} now: use convert_sync_, or call convert_ again"
    return f"is a {name} now"
