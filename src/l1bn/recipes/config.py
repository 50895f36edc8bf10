"""What a run is made of. The command line is generated from these classes; none needs torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from l1bn.errors import UserError
from l1bn.recipes.names import NormName, check_model
from l1bn.recipes.results import Settings

_LARGEST_SEED = 2**32 - 1
MOST_WIDTH = 64.0
"""Largest factor on the widths of a network: no machine holds more."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The choices that decide a training curve, apart from the norm and the seed."""

    data: str = "digits"
    """digits (embedded), a folder, or the name of an image set on the Hugging Face hub."""
    image_column: str | None = None
    """Column of the images, if there are several."""
    label_column: str | None = None
    """Column of the classes, if there are several."""
    image_size: int | None = None
    """Resize the images to this height and width [pixels]."""
    classes: tuple[int, ...] | None = None
    """Train and test on these classes only; the network keeps an output for every class."""
    images: int | None = None
    """Train on this many images only, drawn by the seed [default: all]."""
    model: str = "resnet8"
    """resnet8, resnet20, resnet18, resnet50, vgg7 or mobilenet."""
    width: float = 1.0
    """Factor on the widths of the model."""
    epochs: int = 15
    """Passes over the training images."""
    batch_size: int = 128
    """Images in a batch."""
    lr: float = 0.1
    """Highest learning rate."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = True
    """Nesterov's form of the momentum."""
    weight_decay: float = 5e-4
    """Weight decay (L2 penalty)."""
    backbone_rate: float = 1.0
    """Factor on the learning rate of all but the last layer; 0 freezes it."""
    frozen_statistics: bool = False
    """Normalize by the running statistics in training too, and leave them as they are."""
    decay_norm: bool = False
    """Let the weight decay act on biases and on the norms' weights too."""
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    """Learning rate over the run: up and down again, or down from the start."""
    warmup: float = 0.25
    """Share of the steps in which one-cycle rises."""
    label_smoothing: float = 0.0
    """Share of each label spread over all classes."""
    augment: Literal["auto", "none", "crop", "crop+mirror", "crop+alternate"] = "auto"
    """Training images: unchanged, randomly shifted, shifted and mirrored at random, or shifted and
    mirrored in every other epoch (auto: crop+mirror, for digits crop). Do not mirror images of
    text."""
    crop_edges: Literal["zeros", "reflect"] = "zeros"
    """What is seen beyond the edges of a shifted image: zeros, or the image mirrored there."""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """bf16 runs the forward pass under autocast; int8 trains in integers throughout."""
    int8_norm: Literal["same", "range", "none"] = "same"
    """Normalization of integer training: that of --norm, Range BN, or none."""
    int8_sigma: Literal["exact", "pow2"] = "exact"
    """Divide by σ, or by the nearest power of two."""
    int8_master_bits: int = 16
    """Bits of master weights and momentum in integer training [bit]."""
    int8_error_bits: int = 8
    """Bits of errors and weight gradients in integer training [bit]."""
    int8_rounding: Literal["stochastic", "nearest"] = "stochastic"
    """Rounding of errors, gradients and updates in integer training."""
    int8_exponents: Literal["channel", "tensor"] = "channel"
    """One exponent for each channel before a norm, or one for the tensor."""
    int8_statistics: Literal["batch", "running"] = "batch"
    """Statistics that integer training normalizes by: the batch's, or running ones, which take any
    batch down to one image."""
    int8_statistics_momentum: float | None = None
    """Share of a batch in the running statistics of integer training [default: 0.1]."""
    int8_residual_fraction: int = 3
    """Fraction bits of sums of branches in integer training: 3 holds ±16, 4 ±8 [bit]."""
    channels_last: bool = True
    """Memory format of images and weights (NHWC); faster convolutions on most devices."""
    sync_norm: bool = False
    """Under torchrun: normalize by the statistics of the whole batch, not of each process' part."""
    device: str = "auto"
    """cpu, cuda, ... (auto: cuda if there is one)."""
    threads: int | None = None
    """Threads of torch [default: torch's own choice]."""
    log_every: int = 10
    """Steps between two rows of steps.csv."""
    tensorboard: bool = True
    """Write TensorBoard events beside the CSV."""
    progress: bool = True
    """Show progress bars."""

    def validate(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UserError: It names the option, what was expected and what came.
        """
        check_model(self.model)
        for name in ("epochs", "batch_size", "lr", "width", "log_every"):
            require_option(self, name, getattr(self, name) > 0, "greater than 0")
        require_option(self, "width", self.width <= MOST_WIDTH, f"at most {MOST_WIDTH:g}")
        for name in ("image_size", "images", "threads"):
            value = getattr(self, name)
            require_option(self, name, value is None or value > 0, "greater than 0")
        require_option(self, "momentum", 0 <= self.momentum < 1, "in [0, 1)")
        require_option(self, "backbone_rate", self.backbone_rate >= 0, "at least 0")
        require_option(self, "classes", self.classes is None or len(self.classes) > 0, "not empty")
        require_option(self, "weight_decay", self.weight_decay >= 0, "at least 0")
        require_option(self, "warmup", 0 <= self.warmup < 1, "in [0, 1)")
        require_option(self, "label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)")
        if self.frozen_statistics and getattr(self, "weights", None) is None:
            raise UserError(
                "expected --weights with --frozen-statistics: a fresh network has no statistics yet"
            )
        if self.nesterov and self.momentum == 0:
            raise UserError("--nesterov needs --momentum greater than 0; or give --no-nesterov")

    @property
    def mirror_allowed(self) -> bool:
        """Whether the recipe lets training images be mirrored."""
        return self.augment in ("auto", "crop+mirror", "crop+alternate")


class RunConfig:
    """What the configuration of one run keeps of itself, and how it differs from a saved one."""

    free: ClassVar[frozenset[str]] = frozenset(
        {"out", "threads", "device", "log_every", "tensorboard", "progress"}
    )
    """Fields that a resumed run may change."""

    def saved(self) -> Settings:
        """Return the configuration as plain values, as checkpoints and results keep it."""
        values: Settings = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {k: _plain(v) for k, v in values.items()}

    def changed_fields(self, other: Settings, same_data: bool = False) -> list[str]:
        """Return the fields that decide the curve and differ from a saved configuration.

        Args:
            other: What ``saved`` gave.
            same_data: Leave out how the images are found: they are known to be the same.
        """
        mine = self.saved()
        before = {n: v for n, v in _BEFORE.items() if n in mine}
        theirs = {**type(self)().saved(), **before, **other}  # an older version had fewer options
        integers = mine.get("precision") == "int8"
        deciding = [
            n for n in mine if n not in self.free and (integers or not n.startswith("int8_"))
        ]
        if same_data:
            deciding = [n for n in deciding if n not in _PLACE]
        return [n for n in deciding if mine[n] != theirs[n]]

    def changes(self, other: Settings, same_data: bool = False) -> str:
        """Return those fields with both values as text, empty if there are none."""
        mine = self.saved()
        theirs = {**_BEFORE, **other}
        changed = self.changed_fields(other, same_data)
        return ", ".join(f"{n} {theirs.get(n)}, not {mine[n]}" for n in changed)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe, RunConfig):
    """Train one model with one norm and one seed."""

    norm: NormName = "l1"
    """l1 for L1BN, l2 for BatchNorm."""
    seed: int = 0
    """Seed of the initial weights and of the order of the images."""
    out: Path = Path("runs/train")
    """Folder of the run."""
    weights: Path | None = None
    """Start from the weights in this checkpoint, of either norm."""

    def validate(self) -> None:
        """Refuse values that make no sense."""
        super().validate()
        require_option(self, "seed", 0 <= self.seed <= _LARGEST_SEED, "in 0 to 2**32 - 1")

    @classmethod
    def from_saved(cls, values: dict[str, Any]) -> TrainConfig:
        """Return the configuration that ``saved`` gave."""
        values = {**_BEFORE, **values}
        paths = {k: Path(values[k]) for k in ("out", "weights") if values.get(k) is not None}
        classes = values.get("classes")
        return cls(**{**values, **paths, "classes": None if classes is None else tuple(classes)})


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Recipe):
    """Train with L1BN and with BatchNorm under the same seeds, and write a report."""

    seeds: int = 2
    """Number of seeds: 0, 1, ..."""
    out: Path = Path("runs/compare")
    """Folder of the comparison; finished runs found there are not repeated."""
    rounds: int = 20
    """Interleaved rounds in which the training step is timed."""
    remeasure: bool = False
    """Time the training step anew."""

    def validate(self) -> None:
        """Refuse values that make no sense."""
        super().validate()
        if self.precision == "int8":
            raise UserError(
                "expected --precision fp32 or bf16 in a comparison, got int8; train each run with "
                "l1bn train --precision int8"
            )
        require_option(self, "seeds", self.seeds > 0, "greater than 0")
        require_option(self, "rounds", self.rounds > 0, "greater than 0")

    def run(self, norm: NormName, seed: int) -> TrainConfig:
        """Return the configuration of one of the runs."""
        names = {f.name for f in dataclasses.fields(Recipe)}
        shared = {k: v for k, v in dataclasses.asdict(self).items() if k in names}
        out = self.out / "runs" / f"{norm}-seed{seed}"
        return TrainConfig(**shared, norm=norm, seed=seed, out=out)


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


_PLACE = ("data", "image_column", "label_column")
"""Fields that say where the images are, but not which."""
_BEFORE = {"int8_residual_fraction": 4}
"""What runs did before there was an option, where it is not the option's default."""


def require_option(config: object, name: str, holds: bool, expected: str) -> None:
    """Refuse the value of an option.

    Raises:
        UserError: If it does not hold; it names the option, what was expected and what came.
    """
    if not holds:
        option = "--" + name.replace("_", "-")
        raise UserError(f"expected {option} to be {expected}, got {getattr(config, name)}")
