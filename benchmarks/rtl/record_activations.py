"""Record inputs and output gradients of normalization layers in a network that is being trained.

    python -m benchmarks.rtl.record_activations --data PATH_TO_CIFAR10

writes src/l1bn/rtl/verify/activations.npz, the stimulus of
``l1bn rtl report --stimuli activations``: for six channels of three layers the inputs, the output
gradients, and the inputs of the batch before, 256 values each, as 16-bit integers
with one power-of-two exponent per channel.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import l1bn

ROOT = Path(__file__).parents[2]


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for size_in, size_out, stride in ((3, 16, 1), (16, 32, 2), (32, 64, 2)):
        layers += [
            nn.Conv2d(size_in, size_out, 3, stride, 1, bias=False),
            l1bn.L1BatchNorm2d(size_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def images(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    from datasets import load_dataset

    rows = load_dataset(str(folder), split=f"train[:{count}]")
    pixels = np.stack([np.asarray(row, dtype=np.float32) for row in rows["img"]]) / 255 - 0.5
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous() * 4, torch.tensor(
        rows["label"]
    )


def quantize(values: np.ndarray, headroom: float) -> np.ndarray:
    """16-bit integers with a power-of-two scale that leaves ``headroom`` deviations of range."""
    step = 2.0 ** math.ceil(math.log2(headroom * values.std() / 32768))
    return np.clip(np.round(values / step), -32768, 32767)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("L1BN_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default) / "cifar10")
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    torch.manual_seed(0)
    x, labels = images(options.data, 64 * 40)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    norms = [m for m in model if isinstance(m, l1bn.L1BatchNorm2d)]
    inputs: dict[int, list[np.ndarray]] = {i: [] for i in range(len(norms))}
    gradients: dict[int, np.ndarray] = {}

    def hook(index: int):
        def record(_: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
            inputs[index].append(args[0].detach().transpose(0, 1).flatten(1).numpy())
            out.register_hook(
                lambda g: gradients.__setitem__(index, g.transpose(0, 1).flatten(1).numpy().copy())
            )

        return record

    for step in range(options.steps):
        if step == options.steps - 2:
            for index, norm in enumerate(norms):
                norm.register_forward_hook(hook(index))
        batch = torch.randint(len(x), (64,))
        loss = nn.functional.cross_entropy(model(x[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss after {options.steps} steps: {loss.item():.3f}")
    rng = np.random.default_rng(0)
    stored: dict[str, list[np.ndarray]] = {"x": [], "g": [], "before": []}
    for channel in (5, 11):
        for index in range(len(norms)):
            before, now = (values[channel] for values in inputs[index])
            pick = rng.choice(now.size, 256, replace=False)
            both = quantize(np.concatenate([now, before]), headroom=5.0)
            stored["x"].append(both[: now.size][pick])
            stored["before"].append(both[now.size :][pick])
            stored["g"].append(quantize(gradients[index][channel], headroom=6.0)[pick])
    target = ROOT / "src" / "l1bn" / "rtl" / "verify" / "activations.npz"
    np.savez_compressed(target, **{k: np.stack(v).astype(np.int16) for k, v in stored.items()})
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
