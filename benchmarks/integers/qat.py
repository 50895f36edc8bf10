"""Training in integers beside torch's quantization-aware training (QAT): accuracy and time.

    python -m benchmarks.integers.qat

Writes ``results/qat.csv``, a row per run, and its environment. All share the network, first
weights, batches and rates. QAT (Jacob et al., CVPR 2018, arXiv:1712.05877) trains in float32 with
rounding to 8 bits in the forward pass, torch's default settings for x86; ranges and statistics of
BatchNorm move to the end. Its accuracy is that of the converted network, which infers by torch's
8-bit kernels. Runs take turns epoch by epoch, so that their times compare on a busy machine too.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import refuse_on_red, write
from benchmarks.integers.learners import FloatLearner, Images, IntegerLearner, Learner
from l1bn import quantized
from l1bn.recipes.data import ImageSet, load_data
from l1bn.recipes.models import build_model
from l1bn.recipes.models.norm import BatchNormAct2d
from l1bn.recipes.names import NormName

BATCH = 64
VARIANTS = ("float32 BatchNorm", "float32 L1BN", "QAT", "int8 L1BN")


class PlainNorm(nn.Module):
    """A ``BatchNormAct2d`` as modules and an addition, which torch's converter looks for."""

    def __init__(self, norm: BatchNormAct2d) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(norm.num_features)
        self.bn.load_state_dict(norm.state_dict())
        self.act = nn.Identity() if isinstance(norm.act, nn.Identity) else nn.ReLU()

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return ``act(bn(x) + residual)``."""
        y = self.bn(x)
        found: Tensor = self.act(y if residual is None else y + residual)
        return found


def plain(model: nn.Module) -> nn.Module:
    """Return a copy whose norms are ``PlainNorm``."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, BatchNormAct2d):
            model.set_submodule(name, PlainNorm(module))
    return model


class QatLearner(FloatLearner):
    """torch's QAT, by torch.fx."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        from torch.ao.quantization import get_default_qat_qconfig_mapping
        from torch.ao.quantization.quantize_fx import prepare_qat_fx

        mapping = get_default_qat_qconfig_mapping("x86")
        super().__init__(prepare_qat_fx(plain(model).train(), mapping, (example,)))

    def converted(self) -> nn.Module:
        """Return the network that infers in 8 bits."""
        from torch.ao.quantization.quantize_fx import convert_fx

        torch.backends.quantized.engine = "x86"
        network: nn.Module = convert_fx(copy.deepcopy(self.model).eval())
        return network

    def classes(self, x: quantized.QTensor) -> Tensor:
        """Return the class of each image, by the converted network."""
        with torch.no_grad():
            found: Tensor = self.converted()(x.real()).argmax(1)
        return found


def learner(variant: str, data: ImageSet, options: argparse.Namespace, seed: int) -> Learner:
    """Return a fresh network; all of one seed have the same first weights."""
    torch.manual_seed(seed)
    norm: NormName = "l1" if variant.endswith("L1BN") else "l2"
    spec = data.spec(options.width)
    model = build_model(options.model, norm, spec)
    if variant == "QAT":
        size = spec.image_size
        return QatLearner(model, torch.randn(2, spec.in_channels, size, size))
    if variant == "int8 L1BN":
        return IntegerLearner(model, quantized.Config(seed=seed))
    return FloatLearner(model)


def compare(data: ImageSet, options: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Train all variants of one seed, in turns, and return a row for each."""
    learners = {variant: learner(variant, data, options, seed) for variant in VARIANTS}
    split = data.train.only(images=options.images, seed=seed)
    images, order = Images(data, split), torch.Generator().manual_seed(seed)
    spent = dict.fromkeys(VARIANTS, 0.0)
    for epoch in range(options.epochs):
        batches = torch.randperm(len(split), generator=order).split(BATCH)
        for variant, one in learners.items():
            start = time.perf_counter()
            for index, chosen in enumerate(batches):
                done = (epoch + index / len(batches)) / options.epochs
                one.learn(*images.part(chosen))
                one.step(options.rate * (1 - done))
            spent[variant] += time.perf_counter() - start
    test = Images(data, data.test)
    return [
        {
            "variant": variant,
            "seed": seed,
            "test_accuracy": test.accuracy(one),
            "seconds": round(spent[variant], 2),
            "over_batchnorm": round(spent["float32 BatchNorm"] / spent[variant], 3),
        }
        for variant, one in learners.items()
    ]


def main() -> None:
    """Compare on the embedded digits, or on a set of the hub."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    refuse_on_red("tests/quantized/training/test_training.py")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.ao")
    torch.set_num_threads(options.threads)
    data = load_data(options.data)
    names = ("data", "model", "width", "images", "epochs", "rate", "threads")
    about = {name: getattr(options, name) for name in names}
    about["images"] = options.images or len(data.train)
    rows = []
    for seed in range(options.seeds):
        rows += [about | row for row in compare(data, options, seed)]
        for row in rows[-len(VARIANTS) :]:
            print(row, flush=True)
    print(write("qat", rows))


if __name__ == "__main__":
    main()
