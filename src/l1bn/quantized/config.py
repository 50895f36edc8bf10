"""The choices of integer training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

NormKind = Literal["l1", "l2", "range", "none"]
Statistics = Literal["batch", "running", "frozen"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Formats and rounding of an integer network.

    The defaults train; the others are there to be measured against them.

    Attributes:
        norm: Normalization in integers: "l1"; "l2" with an integer root; "range" by the mean of
            the ranges of 16 chunks (Banner et al., NeurIPS 2018, arXiv:1805.11046); "none" leaves
            the normalization layers out.
        sigma: "exact" divides by σ; "pow2" rounds it to a power of two. For "l1".
        master_bits: Bits of the master weights and of the momentum [bit], 8 to 16.
        error_bits: Bits of errors and weight gradients [bit], 2 to 8.
        stochastic: Round errors, gradients and updates stochastically; else to nearest.
        residual_fraction: Fraction bits of a sum of branches, 0 to 4: 3 holds ±16 in steps of 1/8.
            Such sums grow from block to block, while a normalization's output holds ±8.
        per_channel: An exponent for each channel before a normalization; else one per tensor.
        statistics: What a normalization divides by in training. "batch": the statistics of the
            batch. "running": the running ones, which then move toward the batch; the gradient is
            that of constants, and a batch may be a single image. "frozen": the running ones, as
            they are; prepare a trained network. "running" is for "l1".
        momentum: Share of a batch in the running statistics, as ``nn.BatchNorm2d``'s, 1/2048 to 1;
            None takes the float layer's. "running" counts the first batches as a plain average.
            The smaller the batch, the smaller it should be.
        seed: Seed of the stochastic rounding.
        layers: Choices of single layers, by the name of the float layer, or of a part of the
            network that holds it: ``{"head": {"error_bits": 6}}``. ``sigma``, ``master_bits``,
            ``error_bits``, ``residual_fraction``, ``per_channel``, ``statistics`` and ``momentum``
            can be chosen so.

    Raises:
        ValueError: If a value is out of range.
    """

    norm: NormKind = "l1"
    sigma: Literal["exact", "pow2"] = "exact"
    master_bits: int = 16
    error_bits: int = 8
    stochastic: bool = True
    per_channel: bool = True
    residual_fraction: int = 3
    statistics: Statistics = "batch"
    momentum: float | None = None
    seed: int = 0
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, choices in self.layers.items():
            unknown = choices.keys() - _OF_A_LAYER
            if unknown:
                raise ValueError(
                    f"expected choices of {name} among {sorted(_OF_A_LAYER)}, got "
                    f"{', '.join(sorted(unknown))}"
                )
            replace(self, layers={}, **choices)
        _choice("norm", self.norm, ("l1", "l2", "range", "none"))
        _choice("sigma", self.sigma, ("exact", "pow2"))
        if self.sigma == "pow2" and self.norm != "l1":
            raise ValueError(
                f'expected sigma "exact" with norm "{self.norm}", got "pow2"; only L1BN has it'
            )
        _choice("statistics", self.statistics, ("batch", "running", "frozen"))
        if self.statistics == "running" and self.norm not in ("l1", "none"):
            raise ValueError(
                f'expected statistics "batch" or "frozen" with norm "{self.norm}", got "running"; '
                "only L1BN has it"
            )
        if self.momentum is not None and not 2.0**-11 <= self.momentum <= 1:
            raise ValueError(
                f"expected a momentum of 1/2048 to 1, got {self.momentum}; for statistics that "
                'stay, take statistics="frozen"'
            )
        if not 8 <= self.master_bits <= 16:
            raise ValueError(f"expected master_bits of 8 to 16, got {self.master_bits}")
        if not 2 <= self.error_bits <= 8:
            raise ValueError(f"expected error_bits of 2 to 8, got {self.error_bits}")
        if not 0 <= self.residual_fraction <= 4:
            raise ValueError(f"expected residual_fraction of 0 to 4, got {self.residual_fraction}")

    def at(self, name: str) -> Config:
        """Return the choices for a layer; those of the longest name that it lies in count most.

        Args:
            name: Name of the float layer.
        """
        chosen: dict[str, Any] = {}
        for place in sorted(self.layers, key=len):
            if place in ("", name) or name.startswith(f"{place}."):
                chosen |= self.layers[place]
        return replace(self, layers={}, **chosen) if chosen else self


_OF_A_LAYER = {
    "sigma",
    "master_bits",
    "error_bits",
    "residual_fraction",
    "per_channel",
    "statistics",
    "momentum",
}


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {choices}, got {value!r}")
