"""Training steps of ResNets, and the memory that one takes at most."""

from __future__ import annotations

import copy
import importlib
import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.scale import Run, Scale
from benchmarks.gpu.timing import Rows, environment, in_turn, spread


def network(name: str) -> Any:
    """A ResNet of transformers, without a download."""
    importlib.import_module(
        "benchmarks.models.torchvision_operators"
    )  # transformers imports torchvision
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {
        "resnet50": {},
        "resnet18": {
            "layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512],
        },
        "tiny": {
            "layer_type": "basic", "depths": [1], "hidden_sizes": [8], "embedding_size": 8,
        },
    }  # fmt: skip
    return ResNetForImageClassification(ResNetConfig(num_labels=10, **sizes[name]))


def network_steps(name: str, batch: int, size: int, scale: Scale) -> Iterator[tuple[str, Any]]:
    """Training steps of the variants of one network."""
    import torch

    import l1bn

    torch.manual_seed(0)
    plain = network(name).to(scale.device, memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, size, size, device=scale.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=scale.device)
    ours = copy.deepcopy(plain)
    l1bn.convert_(ours, example=images[:2])
    models = {"BN": plain, "L1BN": ours}
    if scale.compiled:
        models["BN compiled"] = torch.compile(copy.deepcopy(plain))
        models["L1BN compiled"] = torch.compile(copy.deepcopy(ours))
    for variant, model in models.items():
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

        def step(model: Any = model, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(scale.device, torch.bfloat16):
                loss = model(images, labels=labels).loss
            loss.backward()
            optimizer.step()

        yield variant, step


def measure_networks(run: Run) -> None:
    """Training steps, and the memory that one takes at most."""
    import torch

    scale = run.scale
    rows = Rows(run.out / "networks.csv", environment())
    for name, batch, size in scale.networks:
        steps = dict(network_steps(name, batch, size, scale))
        peaks = {}
        for variant, step in steps.items():
            step()
            if scale.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
                step()
                peaks[variant] = (torch.cuda.max_memory_allocated() - held) / 2**20
        times = in_turn(steps, max(1, scale.rounds // 3), scale.device)
        base = statistics.median(times["BN"])
        for variant, samples in times.items():
            found = spread(samples)
            rows.add(
                network=name, batch=batch, variant=variant, **found,
                times_bn=round(base / found["ms"], 3), peak_mib=peaks.get(variant),
            )  # fmt: skip
