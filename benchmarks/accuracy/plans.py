"""Which networks `accuracy.py` trains: arms that share everything but a few options."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Plan:
    """Arms that share everything but a few options of ``l1bn train``.

    Attributes:
        shared: Options of every run.
        arms: Options of each arm, by its name; the first is what the others are compared with.
            ``--variant NAME`` trains a variant of L1BN from `norm_variants.py`.
        seeds: Number of seeds.
        first: Runs that come before: an arm starts from the weights of the one that its options
            name in braces.
        old_classes: Classes whose accuracy after the run tells what was forgotten.
        against: What an arm is compared with, where it is not the first.
    """

    shared: tuple[str, ...]
    arms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seeds: int = 3
    first: dict[str, tuple[str, ...]] = field(default_factory=dict)
    old_classes: tuple[int, ...] = ()
    against: dict[str, str] = field(default_factory=dict)

    def reference(self, arm: str) -> str:
        """Return the arm that this one is compared with: itself if it is a reference."""
        return self.against.get(arm, next(iter(self.arms)))

    def label(self, arm: str) -> str:
        """Return what tables and plots call an arm."""
        name = LABELS.get(arm, arm)
        return name.removeprefix("float32 ") if "--precision" in self.shared else name


INT8 = ("--precision", "int8")
L1, L2 = ("--norm", "l1"), ("--norm", "l2")
NORMS = {"l1": L1, "l2": L2}
FROM_BN = {"l1": "l2", "l2": "l2"}
PRECISIONS = {"int8": INT8, "l1": L1, "l2": L2}
LABELS = {
    "int8": "int8 L1BN",
    "l1": "float32 L1BN",
    "l2": "float32 BN",
    "float-l1": "float32 L1BN",
    "float-l2": "float32 BN",
    "no-norm": "no normalization (rate 0.02)",
    "l2-norm": "L2BN: squares and an integer root",
    "range-norm": "Range BN",
    "sigma-pow2": "σ a power of two",
    "tensor-exponents": "one exponent per tensor before a norm",
    "residual-8": "sums of branches in ±8 (default: ±16)",
    "nearest": "everything rounded to nearest",
    "master-12": "12-bit masters",
    "master-8": "8-bit masters",
    "master-8-nearest": "8-bit masters, rounded to nearest",
    "error-6": "6-bit errors",
    "error-4": "4-bit errors",
    "no-mean-sign": "gradient without the mean of the signs",
    "no-scale": "without the factor √(π/2)",
    "eps-added": "eps added, not a floor",
    "frozen": "backbone and statistics frozen",
    "slow": "backbone at a tenth of the rate",
    "slow-frozen-statistics": "the same, statistics frozen",
    "free": "everything at the full rate",
    "resnet20": "ResNet-20, CIFAR-10, 15 epochs",
    "resnet18": "ResNet-18 at an eighth of its width, CIFAR-10, 8 epochs",
    "integer-resnet20": "ResNet-20, CIFAR-10, 12 epochs",
    "integer-vgg7": "VGG7 at an eighth of its width, CIFAR-10, 10 epochs",
    "integer-fashion": "ResNet-20, Fashion-MNIST, 3 epochs",
    "cifar10-dcgan": "DCGAN, CIFAR-10",
    "cifar10-wgan-gp": "WGAN-GP, CIFAR-10",
    "cifar10-wgan-gp-long": "WGAN-GP, CIFAR-10, 4000 steps",
    "0.25": "rate 0.25",
    "0.25-early": "rate 0.25, highest after a tenth of the steps",
    "0.4": "rate 0.4",
    "64-0.125-early": "rate 0.125, batches of 64, highest after a tenth of the steps",
    "64-0.3": "rate 0.3, batches of 64",
    "rate-quarter": "learning rate × ¼",
    "rate-1": "learning rate 0.1",
    "rate-4": "learning rate × 4",
    "bf16": "bfloat16",
    "relu-first": "ReLU before the norm",
    "bn-to-bn": "BN, fine-tuned as BN",
    "bn-to-l1": "BN, fine-tuned as L1BN",
    "bn-calibrated": "BN, calibrated, fine-tuned as L1BN",
    "l1-to-l1": "L1BN, fine-tuned as L1BN",
    **{f"batch-{n}": f"batches of {n}" for n in (4, 16, 64, 256)},
}
"""What tables and plots call an arm, a condition or a plan."""

SMALL = ("--model", "resnet8", "--epochs", "4", "--images", "12500")
"""A network and a part of CIFAR-10 that one core trains on in one or two minutes."""

SHORT = ("--lr", "0.25", "--precision", "bf16")
"""What a short schedule does well with: see the plan "resnet20-schedules"."""

SHOWN_BOTH_WAYS = ("--warmup", "0.1", "--augment", "crop+alternate", "--crop-edges", "reflect")
"""What helps where an image is seen only a few times (Jordan, arXiv:2404.00498)."""

FORMATS = {
    "int8": (),
    "no-norm": ("--int8-norm", "none", "--lr", "0.02"),
    "l2-norm": ("--norm", "l2"),
    "range-norm": ("--int8-norm", "range"),
    "sigma-pow2": ("--int8-sigma", "pow2"),
    "tensor-exponents": ("--int8-exponents", "tensor"),
    "residual-8": ("--int8-residual-fraction", "4"),
    "nearest": ("--int8-rounding", "nearest"),
    "master-12": ("--int8-master-bits", "12"),
    "master-8": ("--int8-master-bits", "8"),
    "master-8-nearest": ("--int8-master-bits", "8", "--int8-rounding", "nearest"),
    "error-6": ("--int8-error-bits", "6"),
    "error-4": ("--int8-error-bits", "4"),
}
BACKBONES = {
    "frozen": ("--backbone-rate", "0", "--frozen-statistics"),
    "slow": ("--backbone-rate", "0.1"),
    "slow-frozen-statistics": ("--backbone-rate", "0.1", "--frozen-statistics"),
    "free": (),
}
STARTS = {
    "int8": ("--weights", "{l1}", *INT8),
    "float-l1": ("--weights", "{l1}", *L1),
    "float-l2": ("--weights", "{l2}", *L2),
}
FIRST = ("--model", "resnet8", "--epochs", "4", "--classes", "0", "1", "2", "3", "4")
CONDITIONS = {
    **{f"batch-{n}": ("--batch-size", str(n), "--lr", str(n / 1280)) for n in (4, 16, 64, 256)},
    "rate-quarter": ("--lr", "0.025"),
    "rate-1": (),
    "rate-4": ("--lr", "0.4"),
    "bf16": ("--precision", "bf16"),
    "relu-first": ("--variant", "relu-first"),
}


SCHEDULES = {
    "0.25": ("--lr", "0.25"),
    "0.25-early": ("--lr", "0.25", "--warmup", "0.1"),
    "0.4": ("--lr", "0.4"),
    "64-0.125-early": ("--batch-size", "64", "--lr", "0.125", "--warmup", "0.1"),
    "64-0.3": ("--batch-size", "64", "--lr", "0.3"),
}


def _both(conditions: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {
        f"{norm}-{name}": ("--norm", norm, *options)
        for name, options in conditions.items()
        for norm in ("l1", "l2")
    }


_BETWEEN_NORMS = {f"{norm}-{name}": f"l2-{name}" for norm in ("l1", "l2") for name in CONDITIONS}

PLANS = {
    "integer-transfer": Plan(
        ("--model", "resnet8", "--epochs", "2", "--lr", "0.05", "--classes", *"56789"),
        {
            f"{s}-{b}": (*start, *back)
            for b, back in BACKBONES.items()
            for s, start in STARTS.items()
        },
        first={"l1": (*FIRST, *L1), "l2": (*FIRST, *L2)},
        old_classes=(0, 1, 2, 3, 4),
        against={f"{s}-{b}": f"float-l2-{b}" for b in BACKBONES for s in STARTS},
    ),
    "resnet20-schedules": Plan(
        ("--model", "resnet20", "--epochs", "15", "--precision", "bf16", *L1), SCHEDULES, seeds=1
    ),
    "resnet20": Plan(
        ("--model", "resnet20", "--epochs", "15", *SHORT, *SHOWN_BOTH_WAYS),
        NORMS,
        against=FROM_BN,
    ),
    "resnet18": Plan(
        ("--model", "resnet18", "--width", "0.125", "--epochs", "8", *SHORT),
        NORMS,
        against=FROM_BN,
    ),
    "integer-resnet20": Plan(("--model", "resnet20", "--epochs", "12"), PRECISIONS, seeds=2),
    "integer-vgg7": Plan(("--model", "vgg7", "--width", "0.125", "--epochs", "10"), PRECISIONS),
    "integer-fashion": Plan(("--model", "resnet20", "--epochs", "3"), PRECISIONS),
    "integer-ablation": Plan(
        SMALL,
        {
            **{name: (*INT8, *options) for name, options in FORMATS.items()},
            "float-l1": L1,
            "float-l2": L2,
        },
    ),
    "variants": Plan(
        SMALL,
        {
            "l1": L1,
            **{name: ("--variant", name) for name in ("no-mean-sign", "no-scale", "eps-added")},
            "l2": L2,
        },
    ),
    "converted": Plan(
        ("--model", "resnet8", "--images", "12500", "--epochs", "1", "--lr", "0.01"),
        {
            "bn-to-bn": ("--weights", "{l2}", *L2),
            "bn-to-l1": ("--weights", "{l2}", *L1),
            "bn-calibrated": ("--weights", "{l2}", *L1, "--variant", "calibrated"),
            "l1-to-l1": ("--weights", "{l1}", *L1),
        },
        first={"l1": (*SMALL, *L1), "l2": (*SMALL, *L2)},
    ),
    "sensitivity": Plan(SMALL, _both(CONDITIONS), against=_BETWEEN_NORMS),
}
