"""Networks of four libraries, as they are, converted and folded: steps, inference, memory.

    python -m benchmarks.models.architectures
    python -m benchmarks.models.architectures --network resnet18 --layout NCHW   # over its rows

Writes ``results/architectures.csv`` and its environment, network by network. On 8 images of 128 x
128 pixels, in turns: a step (forward, mean square of the outputs, backward, SGD with momentum) with
BatchNorm and after ``l1bn.convert_``, and inference with BatchNorm, after ``convert_``, and with
either after ``l1bn.fold_``. Ratios are medians over rounds of BatchNorm's time over the other's.
``kept_bytes`` is what a forward keeps for backward. ``peak_bytes`` is by how much one step raises
the resident memory of a process of its own, and ``largest`` the most images of which a step stays
within 4 GiB, from the line through the peaks of 8 and 16 images.
"""

from __future__ import annotations

import argparse
import copy
import importlib
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

import benchmarks.models.torchvision_operators  # noqa: F401 - before what imports torchvision
import l1bn
from benchmarks.harness import (
    interleave,
    median_ratio,
    milliseconds,
    refuse_on_red,
    replace_rows,
    seconds,
)
from benchmarks.models.conversion import from_transformers, saved_bytes
from benchmarks.models.peak import peaks, print_peak
from l1bn.model.trial import tensors_of

BATCH, PIXELS = 8, 128
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def _of(library: str, function: str, name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return getattr(importlib.import_module(library), function)(name, **options)


def _convnext() -> nn.Module:
    timm = importlib.import_module("timm")
    torch.manual_seed(0)
    return timm.create_model(
        "convnext_atto", num_classes=10, conv_mlp=True, norm_layer=nn.BatchNorm2d
    )


def _unet() -> nn.Module:
    torch.manual_seed(0)
    unet = importlib.import_module("segmentation_models_pytorch").Unet
    return unet("resnet18", encoder_weights=None, classes=4)


def _segmentation(name: str) -> nn.Module:
    home = "torchvision.models"
    return _of(home, "get_model", name, weights=None, weights_backbone=None, num_classes=10)


torchvision_model = partial(_of, "torchvision.models", "get_model", num_classes=10)
timm_model = partial(_of, "timm", "create_model", num_classes=10)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": partial(torchvision_model, "resnet18"),
    "resnet50": partial(torchvision_model, "resnet50"),
    "ResNet-50 (transformers)": partial(from_transformers, "ResNet-50"),
    "RegNet-Y (transformers)": partial(from_transformers, "RegNet-Y"),
    "RegNet-X (transformers)": partial(from_transformers, "RegNet-X"),
    "MobileNetV1 (transformers)": partial(from_transformers, "MobileNetV1"),
    "MobileNetV2 (transformers)": partial(from_transformers, "MobileNetV2"),
    "mobilenet_v2": partial(torchvision_model, "mobilenet_v2"),
    "mobilenet_v3_large": partial(torchvision_model, "mobilenet_v3_large"),
    "EfficientNet-B0 (transformers)": partial(from_transformers, "EfficientNet-B0"),
    "efficientnet_b0": partial(torchvision_model, "efficientnet_b0"),
    "efficientnet_b0 (timm)": partial(timm_model, "efficientnet_b0"),
    "densenet121": partial(torchvision_model, "densenet121"),
    "convnext_atto, BatchNorm (timm)": _convnext,
    "LeViT-128S (transformers)": partial(from_transformers, "LeViT-128S"),
    "vgg16_bn": partial(torchvision_model, "vgg16_bn"),
    "shufflenet_v2_x1_0": partial(torchvision_model, "shufflenet_v2_x1_0"),
    "cspdarknet53 (timm)": partial(timm_model, "cspdarknet53"),
    "hrnet_w18_small (timm)": partial(timm_model, "hrnet_w18_small"),
    "U-Net, resnet18 (smp)": _unet,
    "lraspp_mobilenet_v3_large": partial(_segmentation, "lraspp_mobilenet_v3_large"),
    "deeplabv3_resnet50": partial(_segmentation, "deeplabv3_resnet50"),
}


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([v.float().square().mean() for v in tensors_of(model(x))]).sum()


def trainer(model: nn.Module, x: Tensor) -> Callable[[], tuple[float]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model, x).backward()
        optimizer.step()

    return lambda: (seconds(step),)


def predictor(model: nn.Module, x: Tensor) -> Callable[[], tuple[float]]:
    def predict() -> None:
        with torch.no_grad():
            model(x)

    return lambda: (seconds(predict),)


def images(layout: str, batch: int = BATCH) -> Tensor:
    x = torch.randn(batch, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=LAYOUTS[layout])


def network(name: str, norm: str, layout: str) -> nn.Module:
    model = NETWORKS[name]().to(memory_format=LAYOUTS[layout])
    if norm == "L1BN":
        l1bn.convert_(model)
    return model


def times(found: dict[str, list[Any]], norm: str) -> tuple[float, float, float, float]:
    """Quartiles of the first part's times, and BatchNorm's over them."""
    samples, base = ([s[0] for s in found[n]] for n in (norm, "BatchNorm"))
    return *milliseconds(samples), median_ratio(base, samples)


def measure(name: str, layout: str, threads: int, rounds: int) -> list[dict[str, Any]]:
    torch.set_num_threads(threads)
    x = images(layout)
    models = {norm: network(name, norm, layout).train() for norm in ("BatchNorm", "L1BN")}
    kept = {norm: saved_bytes(model, x) for norm, model in models.items()}
    steps = interleave({n: trainer(m, x) for n, m in models.items()}, rounds)
    for norm, model in list(models.items()):
        models[f"{norm}, folded"] = copy.deepcopy(model).eval()
        l1bn.fold_(models[f"{norm}, folded"], x[:2])
        model.eval()
    runs = interleave({n: predictor(m, x) for n, m in models.items()}, rounds)
    rows = []
    for norm in models:
        low, at, high, ratio = times(runs, norm)
        row: dict[str, Any] = {
            "network": name,
            "layout": layout,
            "threads": threads,
            "norm": norm,
            "inference_ms": at,
            "inference_q1": low,
            "inference_q3": high,
            "inference_ratio": ratio,
        }
        row.update(dict.fromkeys(("step_ms", "step_q1", "step_q3", "step_ratio"), ""))
        row.update(dict.fromkeys(("kept_bytes", "peak_bytes", "largest"), ""))
        if norm in steps:
            low, at, high, ratio = times(steps, norm)
            row.update(step_ms=at, step_q1=low, step_q3=high, step_ratio=ratio)
            row["kept_bytes"] = kept[norm]
            row.update(peaks("benchmarks.models.architectures", [name, norm, layout], BATCH))
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="of each network, at least 20")
    parser.add_argument("--network", choices=NETWORKS, nargs="*", default=list(NETWORKS))
    parser.add_argument("--layout", choices=LAYOUTS, nargs="*", default=list(LAYOUTS))
    parser.add_argument("--threads", type=int, nargs="*", default=[2])
    parser.add_argument("--tested", action="store_true", help="the tests have just passed")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, norm, layout, batch = options.peak
        x = images(layout, int(batch))
        print_peak(trainer(network(name, norm, layout).train(), x))
        return
    if not options.tested:
        refuse_on_red("tests/convert/test_fold.py", "tests/convert/fusion/test_fuse.py")
    for piece in product(options.network, options.layout, options.threads):
        try:
            NETWORKS[piece[0]]()
        except ModuleNotFoundError as error:
            print(f"{piece[0]}: {error.name} is not installed: left out")
            continue
        rows = measure(*piece, max(20, options.rounds))
        replace_rows("architectures", rows, ("network", "layout", "threads"))
        for row in rows:
            print(*(v for v in row.values() if v != ""), flush=True)


if __name__ == "__main__":
    main()
