"""L1BN in integers, alone or after the product it normalizes.

The sums of a product go into 8 bits with one exponent per channel. That is exact for the
normalization, which is invariant to the scale of a channel (Wu et al., arXiv:1802.09769).
"""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.fixed_point.geometry import Geometry
from l1bn.quantized.config import Statistics
from l1bn.quantized.kernels.interface import channels_last
from l1bn.quantized.layers.base import Clock, IntegerLayer
from l1bn.quantized.layers.product import Product
from l1bn.quantized.norms.buffers import NormBuffers
from l1bn.quantized.norms.rule import NormRule, Saved, Sums
from l1bn.quantized.parameter import IntegerParameter
from l1bn.quantized.tensor import QTensor

_DX = 3
_LARGEST_COUNT = 1 << 23
"""Values of 8 bits whose covariance M·Σg·x − Σx·Σg fits 64 bits, see `l1bn.fixed_point.widths`."""


class NormalizingLayer(IntegerLayer):
    """What both layers share: γ, β, running statistics, residual and ReLU."""

    def __init__(
        self, name: str, site: int, clock: Clock, buffers: NormBuffers, rule: NormRule, relu: bool
    ) -> None:
        super().__init__(name, site, clock)
        self.norm = buffers
        self.rule = rule
        self.relu = relu
        self._saved: Saved | None = None
        self._residual = False
        self.statistics: Statistics = "batch"

    @property
    def frozen(self) -> bool:
        """Whether the running statistics serve in training too, and stay as they are."""
        return self.statistics == "frozen"

    def freeze(self) -> None:
        """Normalize by the running statistics in training too, and leave them as they are.

        Raises:
            ValueError: If there are none yet.
        """
        if int(self.norm.num_batches_tracked) == 0:
            raise ValueError(
                f"{self.name}: expected running statistics to freeze, got none; start from the "
                "weights of a trained network"
            )
        self.statistics = "frozen"

    def _normalize(
        self, values: Tensor, peak: Tensor, exponent: int, residual: QTensor | None
    ) -> QTensor:
        fraction = self.rule.spec.output.fraction
        added = None if residual is None else to_exponent(residual, -fraction).values
        kernels = self.clock.kernels(values)
        if self.training and not self.frozen:
            moving = self.statistics == "running"
            train = self.rule.train_running if moving else self.rule.train
            sums = Sums(values, self.rule.shift(peak), exponent)
            y, self._saved = train(kernels, sums, self.norm, added, self.relu)
        else:
            sums = Sums(values, self.norm.shift(exponent), exponent)
            y, saved = self.rule.evaluate(kernels, sums, self.norm, added, self.relu)
            if self.training:
                self._saved = saved
        return QTensor(y, -fraction)

    def _differentiate(self, error: QTensor, residual: bool) -> tuple[QTensor, QTensor | None]:
        saved = self._saved
        if saved is None:
            raise RuntimeError(f"{self.name}: expected a forward pass in training mode first")
        g = QTensor(channels_last(error.values), error.exponent)
        kernels = self.clock.kernels(g.values)
        found = self.rule.backward(
            kernels, g, saved, self.config.error_bits, self.noise(_DX), residual
        )
        for parameter, values in (
            (self.norm.gamma, found.dgamma),
            (self.norm.beta, found.dbeta),
        ):
            if parameter.trains:
                parameter.add_gradient(values.to(g.values.device), g.exponent)
        branch = None if found.dresidual is None else QTensor(found.dresidual, g.exponent)
        return QTensor(found.dx, found.exponent), branch

    def _check(self, shape: torch.Size, residual: torch.Size | None = None) -> torch.Size:
        channels = self.norm.running_mean.numel()
        if len(shape) not in (2, 4) or shape[1] != channels:
            raise ValueError(
                f"{self.name}: expected input of shape (N, {channels}) or (N, {channels}, H, W), "
                f"got {tuple(shape)}"
            )
        if residual is not None and residual != shape:
            raise ValueError(
                f"{self.name}: expected a residual of shape {tuple(shape)}, got {tuple(residual)}"
            )
        count = shape.numel() // max(shape[1], 1)
        if self.training and count < 2 and self._needs_a_batch():
            raise ValueError(
                f"{self.name}: expected more than 1 value per channel when training, got input "
                f"size {tuple(shape)}; use a larger batch, or "
                'Config(statistics="running") once a batch has set the statistics'
            )
        if self.training and count > _LARGEST_COUNT:
            raise ValueError(
                f"{self.name}: expected at most {_LARGEST_COUNT} values per channel, whose sums "
                f"fit 64 bits, got input size {tuple(shape)}; use a smaller batch"
            )
        return shape

    def _needs_a_batch(self) -> bool:
        if self.statistics == "running":
            return int(self.norm.num_batches_tracked) == 0
        return not self.frozen

    def forget(self) -> None:
        """Drop what the forward pass kept."""
        self._saved = None

    def kept(self) -> list[Tensor]:
        """Return the tensors that the forward pass kept."""
        return [] if self._saved is None else self._saved.tensors()


class NormLayer(NormalizingLayer):
    """L1BN of an 8-bit tensor, with an optional residual and ReLU.

    Args:
        name: Name of the float layer.
        site: Number in the network.
        clock: The network's.
        buffers: γ, β and running statistics.
        rule: The kind of normalization.
        relu: Whether it ends in a ReLU.
    """

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        return self._check(shapes[0], *shapes[1:])

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the normalized input, plus the second input if there is one."""
        x, residual = inputs[0], inputs[1] if len(inputs) > 1 else None
        self._residual = residual is not None
        values = channels_last(x.values).int()
        peak = torch.full((values.shape[1],), 127, dtype=torch.int32)  # 8 bits as they are
        return self._normalize(values, peak, x.exponent, residual)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the gradients of the inputs."""
        dx, branch = self._differentiate(error, self._residual)
        return (dx, branch) if self._residual else (dx,)


class ProductNormLayer(NormalizingLayer):
    """A convolution or linear layer and the L1BN of its sums, with an optional residual and ReLU.

    Args:
        name: Name of the float layer.
        site: Number in the network.
        clock: The network's.
        buffers: γ, β and running statistics.
        rule: The kind of normalization.
        relu: Whether it ends in a ReLU.
        product: Name of the float convolution or linear layer.
        weight: (K, C / groups, kh, kw).
        bias: (K,) or None.
        geometry: Strides, padding, dilation and groups.
        linear: Whether inputs and outputs are (N, C).
    """

    def __init__(
        self,
        name: str,
        site: int,
        clock: Clock,
        buffers: NormBuffers,
        rule: NormRule,
        relu: bool,
        *,
        product: str,
        weight: IntegerParameter,
        bias: IntegerParameter | None,
        geometry: Geometry,
        linear: bool = False,
    ) -> None:
        super().__init__(name, site, clock, buffers, rule, relu)
        self.weight, self.bias = weight, bias
        self.product = Product(self, product, weight, bias, geometry=geometry, linear=linear)

    def check(self, *shapes: torch.Size) -> torch.Size:
        """See ``IntegerLayer.check``."""
        return self._check(self.product.check(shapes[0]), *shapes[1:])

    def forward(self, *inputs: QTensor) -> QTensor:
        """Return the normalized product, plus the second input if there is one."""
        x, residual = inputs[0], inputs[1] if len(inputs) > 1 else None
        self._residual = residual is not None
        acc, peak, exponent = self.product.forward(x)
        return self._normalize(acc, peak, exponent, residual)

    def backward(self, error: QTensor) -> tuple[QTensor | None, ...]:
        """Return the gradients of the inputs."""
        inner, branch = self._differentiate(error, self._residual)
        dx = self.product.backward(inner)
        return (dx, branch) if self._residual else (dx,)

    def forget(self) -> None:
        """Drop what the forward pass kept."""
        super().forget()
        self.product.forget()

    def kept(self) -> list[Tensor]:
        """Return the tensors that the forward pass kept."""
        return super().kept() + self.product.kept()


def to_exponent(x: QTensor, exponent: int) -> QTensor:
    """Return the tensor in steps of ``2**exponent``, rounded to nearest and saturated."""
    shift = exponent - x.exponent
    if shift == 0:
        return x
    if shift > 0:  # (v + half) >> shift, without leaving 8 bits; from 8 on all is 0
        # Numbers of its own type keep torch from slower operations on wider ones.
        number = x.values.new_tensor
        high = x.values >> number(min(shift, 7))
        last = (x.values >> number(min(shift, 8) - 1)) & number(1)
        return QTensor(high + last, exponent)
    wide = x.values.int() << min(-shift, 16)
    return QTensor(wide.clamp(-127, 127).to(torch.int8), exponent)
