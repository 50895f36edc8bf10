"""What a comparison of continual learning is made of; none needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from l1bn.errors import UserError
from l1bn.recipes.config import RunConfig, require_option
from l1bn.recipes.names import check_model

Learner = Literal["float-l2", "float-l1", "int8-l1"]
LEARNERS: tuple[Learner, ...] = ("float-l2", "float-l1", "int8-l1")
DOMAINS = 5


@dataclass(frozen=True, kw_only=True)
class ContinualConfig(RunConfig):
    """Learn tasks one after the other, and measure what is kept."""

    data: str = "digits"
    """digits (embedded), a folder, or the name of an image set on the Hugging Face hub."""
    image_column: str | None = None
    """Column of the images, if there are several."""
    label_column: str | None = None
    """Column of the classes, if there are several."""
    images: int | None = None
    """Train on this many images of each task only, drawn by the seed [default: all]."""
    model: str = "resnet8"
    """resnet8, resnet20, resnet18, resnet50, vgg7 or mobilenet."""
    width: float = 1.0
    """Factor on the widths of the model."""
    stream: Literal["classes", "domains"] = "classes"
    """Tasks of new classes, or of the same classes seen in another way: turned or inverted."""
    tasks: int = 5
    """Number of tasks; domains have five at most."""
    learners: tuple[Learner, ...] = LEARNERS
    """float-l2 (BatchNorm), float-l1 and int8-l1 (integers throughout)."""
    buffers: tuple[int, ...] = (0, 100, 500)
    """Images, or activations, that are kept for rehearsal; 0 rehearses nothing."""
    replay: Literal["images", "latent"] = "images"
    """Rehearse int8 images, or int8 activations of a middle layer; integers only learn the latter:
    what comes before that layer stays as the first task left it."""
    latent_layer: str = "blocks.1.norm2"
    """Layer whose activations are rehearsed."""
    joint: bool = True
    """Train on all tasks at once too: what no forgetting would give."""
    seeds: int = 3
    """Number of seeds: 0, 1, ..."""
    epochs: int = 2
    """Passes over the training images of a task."""
    batch_size: int = 64
    """New images in a batch; as many are rehearsed beside them."""
    lr: float = 0.05
    """Learning rate at the start of a task; it falls to zero until its end."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay (L2 penalty)."""
    threads: int | None = None
    """Threads of torch [default: torch's own choice]."""
    out: Path = Path("runs/continual")
    """Folder of the comparison; finished runs found there are not repeated."""
    progress: bool = True
    """Print a line after each run."""

    def validate(self) -> None:
        """Refuse values that make no sense.

        Raises:
            UserError: It names the option, what was expected and what came.
        """
        check_model(self.model)
        for name in ("epochs", "batch_size", "lr", "width", "seeds"):
            require_option(self, name, getattr(self, name) > 0, "greater than 0")
        for name in ("images", "threads"):
            value = getattr(self, name)
            require_option(self, name, value is None or value > 0, "greater than 0")
        require_option(self, "tasks", self.tasks > 1, "at least 2")
        require_option(self, "momentum", 0 < self.momentum < 1, "in (0, 1)")
        require_option(self, "weight_decay", self.weight_decay >= 0, "at least 0")
        require_option(self, "buffers", bool(self.buffers) and min(self.buffers) >= 0, "sizes")
        require_option(self, "learners", bool(self.learners), "not empty")
        if self.stream == "domains":
            require_option(self, "tasks", self.tasks <= DOMAINS, f"at most {DOMAINS}")
        if self.replay == "latent" and self.learners != ("int8-l1",):
            raise UserError(
                "expected --learners int8-l1 with --replay latent, got "
                f"{' '.join(self.learners)}: the activations are int8"
            )
