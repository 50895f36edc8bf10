"""Which parameters learn, at which rate, and which decay."""

from __future__ import annotations

from torch import nn

from l1bn.recipes.config import TrainConfig


def parameter_groups(
    model: nn.Module, config: TrainConfig
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Split the parameters by whether weight decay acts on them, and backbone from last layer."""
    head = {id(p) for p in last_layer(model).parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        rate = 1.0 if id(parameter) in head else config.backbone_rate
        if rate == 0.0:
            parameter.requires_grad_(False)
            continue
        decay = config.weight_decay if parameter.dim() > 1 or config.decay_norm else 0.0
        groups.setdefault((decay, rate), []).append(parameter)
    return [{"params": p, "weight_decay": d, "rate": r} for (d, r), p in groups.items()]


def last_layer(model: nn.Module) -> nn.Module:
    """Return the linear layer that gives the logits."""
    return [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
