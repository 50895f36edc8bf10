"""What convert_ fuses in models of three libraries, and what training then saves for backward.

    python -m benchmarks.models.conversion

Counts models of the libraries that are installed: transformers, torchvision, timm. Writes
``results/conversion.csv`` and its environment where all three are. Bytes are counted, not timed:
the numbers repeat exactly.
"""

from __future__ import annotations

import argparse
import copy
import importlib
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

import benchmarks.models.torchvision_operators  # noqa: F401 - before torchvision
import l1bn
from benchmarks.harness import write
from l1bn.model.kept import kept_bytes
from l1bn.ops.registry import registry

TRANSFORMERS = {
    "ResNet-50": ("resnet", "ResNet", {}),
    "RegNet-Y": ("regnet", "RegNet", {}),
    "RegNet-X": ("regnet", "RegNet", {"layer_type": "x"}),
    "MobileNetV1": ("mobilenet_v1", "MobileNetV1", {}),
    "MobileNetV2": ("mobilenet_v2", "MobileNetV2", {"hidden_act": "relu6"}),
    "EfficientNet-B0": (
        "efficientnet",
        "EfficientNet",
        {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280},
    ),
    "LeViT-128S": (
        "levit",
        "Levit",
        {"image_size": 128, "depths": [2, 3, 4], "num_attention_heads": [4, 6, 8]},
    ),
}
OTHERS = {
    "torchvision": [
        "resnet18", "resnet50", "resnext50_32x4d", "densenet121", "vgg16_bn", "googlenet",
        "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "mnasnet1_0",
        "shufflenet_v2_x1_0",
        "regnet_x_400mf", "regnet_y_400mf", "efficientnet_b0",
    ],
    "timm": [
        "resnet50", "seresnet50", "res2net50_26w_4s", "dla34", "dpn68", "hrnet_w18_small",
        "vovnet39a", "inception_v3", "xception41", "repvgg_a0", "ghostnet_100",
        "mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_lite0", "efficientnet_b0",
        "efficientnetv2_rw_t",
    ],
}  # fmt: skip


def models() -> Iterator[tuple[str, nn.Module]]:
    """Every model of a library that is installed."""
    if find_spec("transformers"):
        for name in TRANSFORMERS:
            yield f"{name} (transformers)", from_transformers(name)
    for library, names in OTHERS.items():
        if find_spec(library) is None:
            print(f"{library} is not installed: its models are left out")
            continue
        for name in names:
            torch.manual_seed(0)
            if library == "timm":
                model = importlib.import_module("timm").create_model(name, num_classes=10)
            else:
                model = importlib.import_module("torchvision.models").get_model(
                    name, num_classes=10
                )
            yield f"{name} ({library})", model


def from_transformers(name: str) -> nn.Module:
    folder, prefix, options = TRANSFORMERS[name]
    module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    torch.manual_seed(0)
    config = getattr(module, f"{prefix}Config")(num_labels=10, **options)
    return getattr(module, f"{prefix}ForImageClassification")(config)


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes of distinct memory that a training forward keeps for backward, less parameters."""
    return kept_bytes(lambda: model.train()(x), model.parameters())


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 128, 128)
    print(f"backend: {registry.available()[0]}, input: {tuple(x.shape)}, {x.dtype}")
    rows = [row(name, model, x) for name, model in models()]
    if all(find_spec(library) for library in ("transformers", *OTHERS)):
        print(write("conversion", rows))


def row(name: str, model: nn.Module, x: Tensor) -> dict[str, Any]:
    """What one model keeps: as it is, converted, and fused."""
    plain = copy.deepcopy(model)
    before = saved_bytes(copy.deepcopy(model), x)
    l1bn.convert_(plain, fuse=False)
    unfused = saved_bytes(plain, x)
    report = l1bn.convert_(model, example=x[:2])
    reasons = Counter(item.text for item in report.not_fused)
    found = {
        "model": name,
        "bn_bytes": before,
        "l1bn_bytes": unfused,
        "fused_bytes": saved_bytes(model, x),
        "layers": len(report.converted),
        "fused": len(report.fused),
        "not_fused": "; ".join(f"{n} × {text}" for text, n in reasons.most_common()),
    }
    print(found, flush=True)
    return found


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # none, but --help
    main()
