"""What convert_ fuses in models of transformers, and what training then saves for backward.

    python benchmarks/conversion.py

Prints two Markdown tables. Bytes are counted, not timed: the numbers repeat exactly.
"""

from __future__ import annotations

import copy
import importlib

import torch
from torch import Tensor, nn

import l1bn
import torchvision_operators  # noqa: F401 - before transformers, which imports torchvision
from l1bn.ops.registry import registry

MODELS = {
    "ResNet-50": ("resnet", "ResNet", {}),
    "RegNet-Y": ("regnet", "RegNet", {}),
    "RegNet-X": ("regnet", "RegNet", {"layer_type": "x"}),
    "MobileNetV2": ("mobilenet_v2", "MobileNetV2", {"hidden_act": "relu6"}),
}


def build(name: str) -> nn.Module:
    folder, prefix, options = MODELS[name]
    module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    torch.manual_seed(0)
    config = getattr(module, f"{prefix}Config")(num_labels=10, **options)
    return getattr(module, f"{prefix}ForImageClassification")(config)


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes of distinct storage that a training forward keeps for backward, less parameters."""
    seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: list[Tensor] = []  # alive, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in seen:
            seen.add(tensor.untyped_storage().data_ptr())
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.train()(x).logits.sum()
    del loss
    return sum(tensor.untyped_storage().nbytes() for tensor in kept)


def main() -> None:
    x = torch.randn(4, 3, 128, 128)
    print(f"backend: {registry.available()[0]}, input: {tuple(x.shape)}, {x.dtype}\n")
    fusions = ["| model | layers | fused | not fused, because |", "|---|---|---|---|"]
    sizes = ["| model | BN [MB] | L1BN [MB] | fused [MB] | ratio |", "|---|---|---|---|---|"]
    for name in MODELS:
        model = build(name)
        plain = copy.deepcopy(model)
        before = saved_bytes(copy.deepcopy(model), x)
        l1bn.convert_(plain, fuse=False)
        report = l1bn.convert_(model, example=x[:2])
        reasons = sorted({item.text for item in report.not_fused})
        fusions.append(
            f"| {name} | {len(report.converted)} | {len(report.fused)} | {'; '.join(reasons)} |"
        )
        unfused, fused = saved_bytes(plain, x), saved_bytes(model, x)
        sizes.append(
            f"| {name} | {before / 1e6:.1f} | {unfused / 1e6:.1f} | {fused / 1e6:.1f} "
            f"| {fused / before:.2f} |"
        )
    print("\n".join([*fusions, "", *sizes]))


if __name__ == "__main__":
    main()
