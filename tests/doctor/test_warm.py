"""What `l1bn doctor --warm` compiles; that it compiles it, the interpreter's tests say."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from l1bn.doctor.warm import layers
from l1bn.recipes.models import BatchNormAct2d, ModelSpec, build_model


def test_the_layers_to_warm_are_those_of_resnets() -> None:
    met: set[tuple[Any, ...]] = set()

    def note(layer: BatchNormAct2d, given: tuple[Any, ...]) -> None:
        bare = isinstance(layer.act, nn.Identity)
        met.add((tuple(given[0].shape), bare, len(given) == 2))

    with torch.device("meta"):
        for name in ("resnet18", "resnet50"):
            model = build_model(name, "l2", ModelSpec(3, 224, 1000))
            for module in model.modules():
                if isinstance(module, BatchNormAct2d):
                    module.register_forward_pre_hook(note)
            model(torch.empty(3, 3, 224, 224))
    found = layers(3)
    assert {(one.shape, one.activation is None, one.residual) for one in found} == met
    assert len(found) == 2 * len(met)
