"""What every layer of an integer network is: a forward and a backward pass on integers.

Autograd differentiates floating-point tensors only, so each layer has its own backward pass; the
network calls them in reverse order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from l1bn.fixed_point.formats import Noise
from l1bn.quantized.config import Config
from l1bn.quantized.kernels import Kernels
from l1bn.quantized.kernels.selection import kernels_for
from l1bn.quantized.tensor import QTensor

_SITES = 1 << 12
_STREAMS = 1 << 4
_FIRST_UPDATE = 1 << 11
_PASS_BITS = 48


@dataclass
class Clock:
    """The state that all layers of a network share.

    Attributes:
        config: The network's configuration.
        step: Training steps taken; it numbers the random bits.
        backend: Name of the kernels, or "auto".
        passes: Backward passes since the last step, which number the random bits too: the rounding
            noise of gradients that add up must be independent.
    """

    config: Config
    step: int = 0
    backend: str = "auto"
    passes: int = 0
    _kernels: dict[torch.device, Kernels] = field(default_factory=dict, repr=False)

    def kernels(self, like: Tensor) -> Kernels:
        """Return the kernels for tensors like this one."""
        found = self._kernels.get(like.device)
        if found is None:
            found = self._kernels[like.device] = kernels_for(like.device, self.backend)
        return found

    def noise(self, site: int, stream: int) -> Noise | None:
        """Return the random bits of one rounding of this step; None rounds to nearest."""
        if not self.config.stochastic:
            return None
        return Noise(self.config.seed, self.place(site, stream))

    def place(self, site: int, stream: int) -> int:
        """Return the number of one rounding of this step and pass."""
        place = (self.step * _SITES + site) * _STREAMS + stream
        return place + (self.passes << _PASS_BITS)

    def update_noise(self, index: int) -> Noise | None:
        """Return the random bits of the update of one parameter; None rounds to nearest.

        The stream after it is the momentum's.
        """
        if not self.config.stochastic:
            return None
        return Noise(self.config.seed, (self.step * _SITES + _FIRST_UPDATE + index) * _STREAMS)

    def advance(self) -> None:
        """Note that a step was taken."""
        self.step += 1
        self.passes = 0


class IntegerLayer(nn.Module):
    """A layer; its tensors are buffers of integers, so that a state dict holds all of it.

    Attributes:
        name: Name of the float layer it came from.
        site: Its number in the network.
        config: The configuration, with the choices for this layer.
        needs_input_gradient: Whether a layer before it has something to learn.
        learns: Whether it, or a layer before it, has something to learn.
    """

    def __init__(self, name: str, site: int, clock: Clock) -> None:
        super().__init__()
        self.name = name
        self.site = site
        self.clock = clock
        self.config = clock.config.at(name)
        self.needs_input_gradient = True
        self.learns = True

    def check(self, *shapes: torch.Size) -> torch.Size:
        """Return the shape of the output, having refused what the layer cannot compute.

        In training mode the backward pass must be able to follow.

        Raises:
            ValueError: If a shape does not fit, sums could overflow, or a normalization in training
                has one value per channel.
        """
        return shapes[0]

    def forward(self, *inputs: QTensor) -> QTensor:
        """Compute the output; in training mode, keep what ``backward`` needs."""
        raise NotImplementedError

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the gradient of each input, and leave those of the parameters with them."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what the forward pass kept."""

    def kept(self) -> list[Tensor]:
        """Return the tensors that the forward pass kept."""
        return []

    def noise(self, stream: int) -> Noise | None:
        """Return the random bits of one rounding of this layer in this step."""
        return self.clock.noise(self.site, stream)

    def extra_repr(self) -> str:
        """Name the float layer."""
        return self.name
