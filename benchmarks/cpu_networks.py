"""Training steps of whole networks on the CPU, BatchNorm against L1BN, and bytes kept for backward.

    python benchmarks/cpu_networks.py

Writes ``results/cpu_networks.csv`` and its environment. A step is forward, loss, backward and SGD
with momentum on CIFAR shapes, channels_last; ResNet-50 (transformers) is converted with
``l1bn.convert_`` and only its bytes are counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import l1bn
from conversion import build, saved_bytes
from harness import interleave, quartiles, refuse_on_red, seconds, write
from l1bn.recipes.models import ModelSpec, build_model

NETWORKS = {"resnet20": 128, "resnet18": 32}
SPEC = ModelSpec(in_channels=3, image_size=32, num_classes=10)


def stepper(model: nn.Module, x: Tensor, target: Tensor) -> Callable[[], tuple[float]]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), target).backward()
        optimizer.step()

    return lambda: (seconds(step),)


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes of distinct storage kept for backward, less parameters."""

    class WithLogits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Any:
            return type("Output", (), {"logits": self.model(x)})

    return saved_bytes(WithLogits(), x)


def measure(name: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    x = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    target = torch.randint(10, (batch,))
    models = {}
    for norm in ("l2", "l1"):
        torch.manual_seed(0)
        model = build_model(name, norm, SPEC).to(memory_format=torch.channels_last)
        models[norm] = model.train()
    steps = {norm: stepper(model, x, target) for norm, model in models.items()}
    rows = []
    for norm, samples in interleave(steps, rounds).items():
        low, middle, high = quartiles([s[0] for s in samples])
        rows.append(
            {
                "network": name,
                "batch": batch,
                "norm": {"l1": "L1BN", "l2": "BatchNorm"}[norm],
                "threads": torch.get_num_threads(),
                "step_ms": round(middle * 1e3, 3),
                "step_q1": round(low * 1e3, 3),
                "step_q3": round(high * 1e3, 3),
                "kept_bytes": kept_bytes(models[norm], x),
            }
        )
    return rows


def resnet50() -> list[dict[str, Any]]:
    x = torch.randn(4, 3, 128, 128)
    model = build("ResNet-50")
    before = saved_bytes(model, x)
    l1bn.convert_(model, example=x)
    common = {"network": "transformers ResNet-50", "batch": 4, "threads": "", "step_ms": ""}
    common |= {"step_q1": "", "step_q3": ""}
    return [
        common | {"norm": "BatchNorm", "kept_bytes": before},
        common | {"norm": "L1BN", "kept_bytes": saved_bytes(model, x)},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="steps of each network, at least 20")
    options = parser.parse_args()
    refuse_on_red("tests/test_backends.py", "-k", "cpu and layouts")
    rows = []
    for name, batch in NETWORKS.items():
        rows += measure(name, batch, max(20, options.rounds))
    rows += resnet50()
    columns = list(rows[0])
    print(write("cpu_networks", [{k: row[k] for k in columns} for row in rows]))
    for old, new in zip(rows[::2], rows[1::2], strict=True):
        text = f"{old['network']}: bytes kept {new['kept_bytes'] / old['kept_bytes']:.3f}"
        if old["step_ms"]:
            text += f", step {old['step_ms'] / new['step_ms']:.2f}x faster"
        print(text)


if __name__ == "__main__":
    main()
