"""What a GAN run is made of. The command line is generated from these classes; none needs torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from l1bn.errors import UserError
from l1bn.recipes.config import MOST_WIDTH, RunConfig, require_option
from l1bn.recipes.names import NormName

CriticNorm = Literal["layer", "instance", "identity"]


@dataclass(frozen=True, kw_only=True)
class GanSettings:
    """The options whose defaults depend on the model; see those of ``GanRecipe``."""

    latent: int
    batch_size: int
    lr: float
    betas: tuple[float, float]
    n_critic: int
    penalty: float | None = None
    critic_norm: CriticNorm | None = None


_DEFAULTS = {
    "dcgan": GanSettings(latent=100, batch_size=128, lr=2e-4, betas=(0.5, 0.999), n_critic=1),
    "wgan-gp": GanSettings(
        latent=128,
        batch_size=64,
        lr=1e-4,
        betas=(0.0, 0.9),
        n_critic=5,
        penalty=10.0,
        critic_norm="layer",
    ),
}
"""What the papers used, by model."""
_WGAN_ONLY = ("penalty", "critic_norm")
_LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class GanRecipe:
    """The choices that decide a run, apart from the norm and the seed."""

    data: str = "digits"
    """digits (embedded), a folder, or the name of an image set on the Hugging Face hub."""
    image_column: str | None = None
    """Column of the images, if there are several."""
    label_column: str | None = None
    """Column of the classes, if there are several."""
    image_size: int | None = None
    """Height and width of the images: 16, 32, 64 or 128 [default: the data's or the next larger;
    pixels]."""
    model: Literal["dcgan", "wgan-gp"] = "dcgan"
    """DCGAN, with the norm in both networks, or WGAN-GP, with the norm in the generator."""
    width: float = 1.0
    """Factor on the widths of both networks; 1 is 64 channels at the largest resolution."""
    latent: int | None = None
    """Size of the noise [default: dcgan 100, wgan-gp 128]."""
    epochs: int = 25
    """Passes of the critic over the training images."""
    steps: int | None = None
    """Steps of the generator, instead of --epochs."""
    batch_size: int | None = None
    """Images in a batch [default: dcgan 128, wgan-gp 64]."""
    lr: float | None = None
    """Learning rate of Adam [default: dcgan 2e-4, wgan-gp 1e-4]."""
    betas: tuple[float, float] | None = None
    """Decay rates of Adam's two averages [default: dcgan 0.5 0.999, wgan-gp 0 0.9]."""
    n_critic: int | None = None
    """Steps of the critic for each of the generator [default: dcgan 1, wgan-gp 5]."""
    penalty: float | None = None
    """Weight of the gradient penalty [default: wgan-gp 10]."""
    critic_norm: CriticNorm | None = None
    """Norm of WGAN-GP's critic, which must not mix the samples of a batch [default: layer]."""
    classifier: Path | None = None
    """Checkpoint of l1bn train on the same data: measure the Fréchet distance on the features of
    this classifier (it is not Inception-FID)."""
    distance_images: int = 10_000
    """Test images, and as many generated ones, that the distance is measured on, at most."""
    sample_every: int | None = None
    """Steps between two image grids, with their distance [default: an epoch]."""
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

    def settings(self) -> GanSettings:
        """Return the values given, or else those of the model."""
        default = dataclasses.asdict(_DEFAULTS[self.model])
        given = {k: getattr(self, k) for k in default}
        return GanSettings(**{k: default[k] if v is None else v for k, v in given.items()})

    def validate(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UserError: It names the option, what was expected and what came.
        """
        for name in ("width", "epochs", "log_every"):
            require_option(self, name, getattr(self, name) > 0, "greater than 0")
        require_option(self, "width", self.width <= MOST_WIDTH, f"at most {MOST_WIDTH:g}")
        positive = ("latent", "steps", "batch_size", "lr", "n_critic", "sample_every", "threads")
        for name in positive:
            value = getattr(self, name)
            require_option(self, name, value is None or value > 0, "greater than 0")
        betas = self.betas or (0.0, 0.0)
        require_option(self, "betas", all(0 <= b < 1 for b in betas), "in [0, 1)")
        require_option(self, "penalty", self.penalty is None or self.penalty >= 0, "at least 0")
        require_option(self, "batch_size", self.batch_size != 1, "greater than 1")
        require_option(self, "distance_images", self.distance_images > 1, "greater than 1")
        if self.model == "dcgan":
            for name in _WGAN_ONLY:
                if getattr(self, name) is not None:
                    option = "--" + name.replace("_", "-")
                    raise UserError(f"{option} is for --model wgan-gp; dcgan has none")


@dataclass(frozen=True, kw_only=True)
class GanConfig(GanRecipe, RunConfig):
    """Train one GAN with one norm and one seed."""

    # The rate is constant: a longer run begins as a shorter one.
    free: ClassVar[frozenset[str]] = RunConfig.free | {"steps", "epochs"}

    norm: NormName = "l1"
    """l1 for L1BN, l2 for BatchNorm."""
    seed: int = 0
    """Seed of the initial weights, of the noise and of the order of the images."""
    out: Path = Path("runs/gan")
    """Folder of the run."""

    def validate(self) -> None:
        """Refuse values that make no sense."""
        super().validate()
        require_option(self, "seed", 0 <= self.seed <= _LARGEST_SEED, "in 0 to 2**32 - 1")

    @classmethod
    def from_saved(cls, values: dict[str, Any]) -> GanConfig:
        """Return the configuration that ``saved`` gave."""
        paths = {k: Path(values[k]) for k in ("out", "classifier") if values.get(k) is not None}
        betas = values.get("betas")
        return cls(**{**values, **paths, "betas": None if betas is None else tuple(betas)})

    def filled(self) -> GanConfig:
        """Return the configuration with the model's values where none were given."""
        return dataclasses.replace(self, **dataclasses.asdict(self.settings()))


@dataclass(frozen=True, kw_only=True)
class GanCompareConfig(GanRecipe):
    """Train a GAN with L1BN and with BatchNorm under the same seeds, and write a report."""

    seeds: int = 2
    """Number of seeds: 0, 1, ..."""
    out: Path = Path("runs/gan-compare")
    """Folder of the comparison; finished runs found there are not repeated."""

    def validate(self) -> None:
        """Refuse values that make no sense."""
        super().validate()
        require_option(self, "seeds", self.seeds > 0, "greater than 0")

    def run(self, norm: NormName, seed: int) -> GanConfig:
        """Return the configuration of one of the runs."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(GanRecipe)}
        out = self.out / "runs" / f"{norm}-seed{seed}"
        return GanConfig(**shared, norm=norm, seed=seed, out=out)
