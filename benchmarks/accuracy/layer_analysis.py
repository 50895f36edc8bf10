"""What L1BN and BN see in each layer while a network trains: ratios, gradients, histograms.

    python -m benchmarks.accuracy.layer_analysis --data ../data/cifar10 --out results/layers

Trains one network with L1BN and, before training and after every epoch, takes the same 512 of the
images that it trains on and measures at the same weights

* standard deviation over mean absolute deviation of every channel that a norm sees, constant ones
  left out: sqrt(pi/2) for Gaussian data, the factor that L1BN assumes (Wu et al.,
  arXiv:1802.09769, Fig. 2 to 4);
* the cosine between the gradients that L1BN and BN give to each weight tensor, and to all
  parameters together;
* histograms of what the norms see, (x - mean) / std.

Writes ratios.csv, cosines.csv, histograms.csv, results.json and layers.svg. It takes minutes; one
that was interrupted starts anew.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.accuracy.tables import write_csv
from l1bn.environment import describe_environment
from l1bn.recipes.classification.measure import channel_ratios
from l1bn.recipes.classification.run import load_recipe_data
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet, Split
from l1bn.recipes.files.checkpoint import CHECKPOINT
from l1bn.recipes.machine.threads import thread_count
from l1bn.recipes.models import build_model

GAUSSIAN = math.sqrt(math.pi / 2)
EDGES = np.linspace(-5, 5, 81)
IMAGES = 512
Rows = list[dict[str, Any]]


class Analyst(Trainer):
    """A trainer that measures whenever it evaluates: after every epoch."""

    def __init__(self, config: TrainConfig, data: ImageSet) -> None:
        super().__init__(config, data)
        self.ratios: Rows = []
        self.cosines: Rows = []
        self.histograms: Rows = []
        self.measured = 0

    def evaluate(self, split: Split) -> tuple[float, float]:
        """Measure, then evaluate."""
        self.measure()
        return super().evaluate(split)

    def measure(self) -> None:
        """Append the rows of this epoch."""
        epoch, self.measured = self.measured, self.measured + 1
        inputs = self.preprocess(batch(self)[0])
        for layer, values in channel_ratios(self.model, inputs).items():
            row = {"epoch": epoch, "layer": layer}
            live = [(c, v) for c, v in enumerate(values) if not math.isnan(v)]
            self.ratios.extend({**row, "ratio": v, "channel": c} for c, v in live)
        for name, cosine in gradient_cosines(self).items():
            self.cosines.append({"epoch": epoch, "weight": name, "cosine": round(cosine, 6)})
        for layer, counts in histograms(self).items():
            for low, count in zip(EDGES, counts, strict=False):
                row = {"epoch": epoch, "layer": layer, "low": round(float(low), 4)}
                self.histograms.append({**row, "share": round(float(count), 6)})


def batch(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """The same training images each time."""
    order = torch.randperm(len(trainer.train_split), generator=torch.Generator().manual_seed(1))
    chosen = order[:IMAGES]
    return trainer.train_split.images[chosen], trainer.train_split.labels[chosen]


def gradients(trainer: Trainer, model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of one batch, by the name of the parameter."""
    images, labels = batch(trainer)
    loss = nn.functional.cross_entropy(model(trainer.preprocess(images)), labels.to(trainer.device))
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def gradient_cosines(trainer: Trainer) -> dict[str, float]:
    """Return the cosine between L1BN's and BN's gradients at the same weights, and over all."""
    own = copy.deepcopy(trainer.model).train()
    config = trainer.config
    other = build_model(config.model, "l2", trainer.data.spec(config.width)).train()
    other.load_state_dict(own.state_dict())  # both norms have the same keys
    other = other.to(trainer.device)
    first, second = gradients(trainer, own), gradients(trainer, other)
    flat = [torch.cat([g.flatten() for g in both.values()]) for both in (first, second)]
    found = {"all": _cosine(*flat)}
    return found | {n: _cosine(first[n], second[n]) for n in first if first[n].dim() > 1}


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


@torch.no_grad()
def histograms(trainer: Trainer) -> dict[str, np.ndarray]:
    """Return the share of each bin of (x - mean) / std, all channels of a norm together."""
    found: dict[str, np.ndarray] = {}

    def recorder(name: str):  # type: ignore[no-untyped-def]
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].double().transpose(0, 1).flatten(1)
            z = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True).clamp(min=1e-12)
            counts, _edges = np.histogram(z.cpu().numpy(), EDGES)
            found[name] = counts / z.numel()

        return record

    model = copy.deepcopy(trainer.model).train()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.register_forward_pre_hook(recorder(name))
    model(trainer.preprocess(batch(trainer)[0]))
    return found


def draw(analyst: Analyst, path: Path) -> None:
    """Draw ratios, cosines and histograms side by side."""
    matplotlib.use("svg")
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    layers = list(dict.fromkeys(r["layer"] for r in analyst.ratios))
    last = analyst.measured - 1
    for epoch, colour in ((0, "#9aa5b1"), (last, "#c2410c")):
        values = [
            [r["ratio"] for r in analyst.ratios if (r["epoch"], r["layer"]) == (epoch, layer)]
            for layer in layers
        ]
        places = np.arange(len(layers)) + (0.18 if epoch else -0.18)
        label = f"after {epoch} epochs" if epoch else "before training"
        parts = axes[0].boxplot(
            values, positions=places, widths=0.3, sym=".", patch_artist=True, manage_ticks=False
        )
        for box in parts["boxes"]:
            box.set_facecolor(colour)
        axes[0].plot([], [], "s", color=colour, label=label)
    axes[0].axhline(GAUSSIAN, color="black", linestyle=":", label="Gaussian, √(π/2)")
    axes[0].set_xticks(range(len(layers)), layers, rotation=60, ha="right", fontsize="small")
    axes[0].set(ylabel="standard / mean absolute deviation", title="Channels before each norm")
    weights = list(dict.fromkeys(r["weight"] for r in analyst.cosines))
    names = {"all": "all parameters together", weights[1]: "first layer", weights[-1]: "last layer"}
    for place, weight in enumerate(weights):
        curve = [r["cosine"] for r in analyst.cosines if r["weight"] == weight]
        shade = matplotlib.colormaps["viridis"](1 - place / len(weights))  # light to dark by depth
        style = {"linewidth": 2.5, "color": "black"} if weight == "all" else {"color": shade}
        axes[1].plot(range(last + 1), curve, label=names.get(weight), **style)
    axes[1].set(xlabel="epoch", ylabel="cosine", title="Gradients of L1BN and BN, same weights")
    axes[1].xaxis.get_major_locator().set_params(integer=True)
    centres = (EDGES[:-1] + EDGES[1:]) / 2
    for layer in (layers[0], layers[len(layers) // 2], layers[-1]):
        shares = [
            r["share"] for r in analyst.histograms if (r["epoch"], r["layer"]) == (last, layer)
        ]
        axes[2].plot(centres, np.array(shares) / np.diff(EDGES), label=layer)
    gauss = np.exp(-(centres**2) / 2) / math.sqrt(2 * math.pi)
    axes[2].plot(centres, gauss, "k:", label="Gaussian")
    axes[2].set(xlabel="(x − mean) / std", ylabel="density", title="What the norms see at the end")
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    figure.savefig(path)
    plt.close(figure)


def summary(analyst: Analyst) -> Rows:
    """Return, for every epoch, medians and quantiles over all channels, and the joint cosine."""
    rows = []
    for epoch in range(analyst.measured):
        ratios = [r["ratio"] for r in analyst.ratios if r["epoch"] == epoch]
        low, median, high = np.quantile(ratios, [0.05, 0.5, 0.95]).round(4).tolist()
        cosine = next(
            r["cosine"] for r in analyst.cosines if (r["epoch"], r["weight"]) == (epoch, "all")
        )
        rows.append(
            {"epoch": epoch, "ratio_5%": low, "ratio_median": median, "ratio_95%": high}
            | {"gradient_cosine": cosine}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=12500)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--run", type=Path, default=Path("runs/layers"), help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    options = parser.parse_args()
    if (options.run / CHECKPOINT).exists():
        raise SystemExit(f"{options.run} holds a run; remove it, or choose another with --run")
    names = ("data", "model", "epochs", "images", "threads")
    chosen = {name: getattr(options, name) for name in names}
    config = TrainConfig(norm="l1", out=options.run, tensorboard=False, **chosen)
    with thread_count(config.threads):
        analyst = Analyst(config, load_recipe_data(config))
        analyst.measure()
        analyst.fit()
        environment = describe_environment()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("ratios", "cosines", "histograms"):
        write_csv(options.out / f"{name}.csv", getattr(analyst, name))
    content = {
        "command": f"python -m benchmarks.accuracy.layer_analysis --data DATA "
        f"--model {options.model} --epochs {options.epochs} --images {options.images} "
        f"--out {options.out}",
        "config": {k: v for k, v in config.saved().items() if k not in ("out", "data")},
        "environment": environment,
        "summary": summary(analyst),
    }
    (options.out / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(analyst, options.out / "layers.svg")
    for row in content["summary"]:
        print(row)


if __name__ == "__main__":
    main()
