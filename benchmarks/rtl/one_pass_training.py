"""What one-pass L1 statistics cost in accuracy: training with them and with exact ones.

    python -m benchmarks.rtl.one_pass_training --data PATH_TO_FASHION_MNIST

The one-pass deviation expands around the mean of the previous batch, as the hardware does; where
that is more than a quarter of the mean deviation away, the exact second pass runs. Prints the
accuracy of every seed, the share of channels that took the second pass, and the largest error that
was kept; writes benchmarks/results/rtl/one_pass.csv.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
K = math.sqrt(math.pi / 2)


class Normalize(torch.autograd.Function):
    """L1BN with a given deviation; the gradient is that of L1BN, mean(sgn) included."""

    @staticmethod
    def forward(ctx, x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:  # noqa: D102
        x_hat = (x - mean) / sigma
        ctx.save_for_backward(x_hat, sigma)
        return x_hat

    @staticmethod
    def backward(ctx, g: Tensor):  # noqa: D102
        x_hat, sigma = ctx.saved_tensors
        sign = torch.where(x_hat >= 0, 1.0, -1.0)
        direction = K * (sign - sign.mean((0, 2, 3), keepdim=True))
        along = (g * x_hat).mean((0, 2, 3), keepdim=True)
        return (g - g.mean((0, 2, 3), keepdim=True) - direction * along) / sigma, None, None


class Norm(nn.Module):
    """L1BN in training, with exact or one-pass statistics; running statistics for evaluation."""

    def __init__(self, channels: int, one_pass: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("sigma", torch.ones(1, channels, 1, 1))
        self.one_pass, self.centre = one_pass, None
        self.second = self.seen = 0
        self.worst = 0.0

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if not self.training:
            return (x - self.mean) / self.sigma * self.weight + self.bias
        with torch.no_grad():
            mean = x.mean((0, 2, 3), keepdim=True)
            deviation = (x - mean).abs().mean((0, 2, 3), keepdim=True)
            if self.one_pass:
                deviation = self._estimate(x, mean, deviation)
            sigma = (K * deviation).clamp_min(math.sqrt(1e-5))
            self.mean.lerp_(mean, 0.1)
            self.sigma.lerp_(sigma, 0.1)
        return Normalize.apply(x, mean, sigma) * self.weight + self.bias

    def _estimate(self, x: Tensor, mean: Tensor, exact: Tensor) -> Tensor:
        centre, self.centre = self.centre, mean
        if centre is None:
            return exact
        above = (x >= centre).to(x.dtype)
        estimate = 2 * ((x * above).mean((0, 2, 3), keepdim=True)
                        - above.mean((0, 2, 3), keepdim=True) * mean)  # fmt: skip
        far = (centre - mean).abs() > 0.25 * estimate
        self.second += int(far.sum())
        self.seen += far.numel()
        kept = torch.where(far, exact, estimate)
        self.worst = max(self.worst, float((1 - kept / exact.clamp_min(1e-12)).abs().max()))
        return kept


def network(one_pass: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size_in, size_out, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)):
        layers += [nn.Conv2d(size_in, size_out, 3, stride, 1, bias=False),
                   Norm(size_out, one_pass), nn.ReLU()]  # fmt: skip
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def load(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    from datasets import load_dataset

    rows = load_dataset(str(folder), split=split)
    pixels = (
        np.stack([np.asarray(row.convert("L"), dtype=np.float32) for row in rows["image"]]) / 255
    )
    return torch.from_numpy(pixels)[:, None] * 4 - 1.2, torch.tensor(rows["label"])


def train(one_pass: bool, seed: int, data: tuple[Tensor, ...], epochs: int) -> dict[str, float]:
    x, labels, x_test, labels_test = data
    torch.manual_seed(seed)
    model = network(one_pass)
    steps = epochs * (len(x) // 128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(x))[: steps // epochs * 128].split(128):
            loss = nn.functional.cross_entropy(model(x[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in x_test.split(500)])
    norms = [m for m in model if isinstance(m, Norm)]
    seen = sum(m.seen for m in norms)
    return {
        "accuracy": float((found == labels_test).float().mean()),
        "second_pass": sum(m.second for m in norms) / seen if seen else 1.0,
        "worst_error": max(m.worst for m in norms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("L1BN_DATA", str(ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(default) / "fashion_mnist")
    parser.add_argument("--images", type=int, default=12800)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data = (*load(options.data, f"train[:{options.images}]"), *load(options.data, "test"))
    target = ROOT / "benchmarks" / "results" / "rtl" / "one_pass.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["statistics", "seed", "images", "epochs", "accuracy", "second_pass_share",
                         "worst_error"])  # fmt: skip
        for seed in range(options.seeds):
            for one_pass in (False, True):
                got = train(one_pass, seed, data, options.epochs)
                name = "one pass" if one_pass else "exact"
                writer.writerow([name, seed, options.images, options.epochs,
                                 *(f"{v:.4f}" for v in got.values())])  # fmt: skip
                file.flush()
                print(name, seed, {k: round(v, 4) for k, v in got.items()}, flush=True)


if __name__ == "__main__":
    main()
