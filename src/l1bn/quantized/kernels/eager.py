"""Integer training in plain PyTorch: on any device, and the reference of the faster backends.

No operation here has a floating-point operand or result. The few numbers of a channel are computed
with Python's integers, by the functions that the judge uses too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.fixed_point.addition import MAX_GAP
from l1bn.fixed_point.formats import Noise
from l1bn.fixed_point.geometry import Geometry
from l1bn.fixed_point.norm.backward import constant_dgamma, l1_slopes
from l1bn.fixed_point.norm.normalize import fold
from l1bn.fixed_point.norm.spec import NormSpec
from l1bn.fixed_point.scaling import MAX_SHIFT, common_exponent, peak_shift
from l1bn.fixed_point.update import LIMIT_BITS, RATE_BITS, UNIT_BITS, SgdStep
from l1bn.quantized.kernels.eager_conv import convolve, correlate, spread
from l1bn.quantized.kernels.eager_norm import (
    EagerGradient,
    EagerState,
    all_but_channels,
    channel_of,
    channel_peak,
    l1_products,
    l1_statistics,
    python_numbers,
    state_of,
    tensor_of,
)
from l1bn.quantized.kernels.interface import Constants, per_channel
from l1bn.quantized.kernels.random import random_bits


class EagerKernels:
    """See ``l1bn.quantized.kernels.interface.Kernels``."""

    name = "eager"

    def conv2d(self, x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """See ``Kernels``."""
        acc = convolve(x, weight, geometry)
        return acc, channel_peak(acc)

    def conv2d_input_gradient(
        self, error: Tensor, weight: Tensor, size: tuple[int, int], geometry: Geometry
    ) -> tuple[Tensor, Tensor]:
        """See ``Kernels``."""
        acc = spread(error, weight, size, geometry)
        return acc, channel_peak(acc)

    def conv2d_weight_gradient(
        self, x: Tensor, error: Tensor, kernel: tuple[int, int], geometry: Geometry
    ) -> Tensor:
        """See ``Kernels``."""
        return correlate(x, error, kernel, geometry)

    def rescale(self, value: Tensor, shift: int | Tensor, bits: int, noise: Noise | None) -> Tensor:
        """See ``Kernels``."""
        if isinstance(shift, Tensor):
            shift = per_channel(shift.long(), value)
        high = (1 << (bits - 1)) - 1
        added = _rounding(shift, value, noise)
        return ((value.long() + added) >> shift).clamp(-high, high).to(torch.int8)

    def norm_forward(
        self,
        sums: Tensor,
        shift: Tensor,
        gamma: Tensor,
        beta: Tensor,
        spec: NormSpec,
        *,
        residual: Tensor | None,
        relu: bool,
    ) -> tuple[Tensor, Tensor, EagerState]:
        """See ``Kernels``."""
        x = self.rescale(sums, shift, 8, None)
        statistics = l1_statistics(x, spec)
        channel, offset = fold(statistics, gamma.cpu().numpy(), beta.cpu().numpy(), spec)
        coefficient, shifts = tensor_of(channel.coefficient), tensor_of(channel.shift)
        y = self.norm_apply(x, coefficient, tensor_of(offset), shifts, residual=residual, relu=relu)
        return x, y, state_of(channel)

    def norm_apply(
        self,
        x: Tensor,
        coefficient: Tensor,
        offset: Tensor,
        shift: Tensor,
        *,
        residual: Tensor | None,
        relu: bool,
    ) -> Tensor:
        """See ``Kernels``."""
        c, o, s = (per_channel(a.long(), x) for a in (coefficient, offset, shift))
        y = ((x * c + o + (1 << (s - 1))) >> s).clamp(-128, 127)
        if residual is not None:
            y = (y + residual).clamp(-128, 127)
        return (y.clamp(min=0) if relu else y).to(torch.int8)

    def norm_backward(
        self,
        g: Tensor,
        x: Tensor,
        y: Tensor | None,
        state: EagerState,
        *,
        spec: NormSpec,
        g_exponent: int,
        x_exponent: Tensor,
        bits: int,
        noise: Noise | None,
        residual: bool,
    ) -> EagerGradient:
        """See ``Kernels``."""
        if y is not None:
            g = torch.where(y > 0, g, 0)
        dims = all_but_channels(x)
        dbeta = g.sum(dims)
        products = (g.int() * x).sum(dims)
        channel = channel_of(state)
        gradient = python_numbers(dbeta)
        covariance = state.count * python_numbers(products) - channel.statistics.total * gradient
        slopes = l1_slopes(gradient, covariance, channel, spec)
        wide = l1_products(g, x, state, slopes)
        exponents = g_exponent - channel.shift - spec.output.fraction - python_numbers(x_exponent)
        exponent, shift = common_exponent(channel_peak(wide).tolist(), exponents, bits)
        dx = self.rescale(wide, torch.from_numpy(shift), bits, noise)
        return EagerGradient(
            dx, exponent, g if residual else None, tensor_of(slopes.dgamma), dbeta.cpu()
        )

    def norm_sides(self, x: Tensor, threshold: Tensor) -> Tensor:
        """See ``Kernels``."""
        dims, above = all_but_channels(x), x >= per_channel(threshold, x)
        sums = x.sum(dims), above.sum(dims), torch.where(above, x, 0).sum(dims)
        return torch.stack(sums).cpu()

    def norm_backward_constant(
        self,
        g: Tensor,
        x: Tensor,
        y: Tensor | None,
        constants: Constants,
        *,
        spec: NormSpec,
        g_exponent: int,
        x_exponent: Tensor,
        bits: int,
        noise: Noise | None,
        residual: bool,
    ) -> EagerGradient:
        """See ``Kernels``."""
        if y is not None:
            g = torch.where(y > 0, g, 0)
        dims = all_but_channels(x)
        dbeta, products = g.sum(dims), (g.int() * x).sum(dims)
        count, total = constants.count, python_numbers(constants.total)
        covariance = count * python_numbers(products) - total * python_numbers(dbeta)
        dgamma = constant_dgamma(covariance, count, python_numbers(constants.deviation))
        wide = g * per_channel(constants.coefficient, x)
        exponents = (
            g_exponent
            - python_numbers(constants.shift)
            - spec.output.fraction
            - python_numbers(x_exponent)
        )
        exponent, shift = common_exponent(channel_peak(wide).tolist(), exponents, bits)
        dx = self.rescale(wide, torch.from_numpy(shift), bits, noise)
        return EagerGradient(dx, exponent, g if residual else None, tensor_of(dgamma), dbeta.cpu())

    def add(
        self, a: Tensor, a_exponent: int, b: Tensor, b_exponent: int, bits: int, noise: Noise | None
    ) -> tuple[Tensor, int]:
        """See ``Kernels``."""
        low, high = sorted((a_exponent, b_exponent))
        exponent = max(low, high - MAX_GAP)
        total = _align(a, a_exponent - exponent) + _align(b, b_exponent - exponent)
        shift = peak_shift(_peak(total), bits)
        return self.rescale(total, shift, bits, noise), exponent + shift

    def sgd_step(
        self,
        weight: Tensor,
        momentum: Tensor,
        gradient: Tensor,
        step: SgdStep,
        *,
        exponent: int,
        momentum_exponent: int,
        gradient_exponent: int,
        bits: int,
        noise: Noise | None,
    ) -> int:
        """See ``Kernels``."""
        d = _to_units(gradient.long(), gradient_exponent)
        d = d + _to_units(weight.long() * step.decay, exponent - 2 * RATE_BITS)
        v = _to_units(momentum.long(), momentum_exponent)
        v = _limit(_momentum(v, step) + d)
        move = _limit(_momentum(v, step) + d) if step.nesterov else v
        high = (1 << (bits - 1)) - 1
        after = None if noise is None else Noise(noise.seed, noise.stream + 1)
        delta = _shift_long(move * step.rate, UNIT_BITS + RATE_BITS + exponent, noise)
        weight.copy_((weight - delta).clamp(-high, high))
        shift = peak_shift(_peak(v), bits)
        momentum.copy_(_shift_long(v, shift, after).clamp(-high, high))
        return shift - UNIT_BITS


def _peak(value: Tensor) -> int:
    return int(value.abs().max()) if value.numel() else 0


def _rounding(shift: int | Tensor, value: Tensor, noise: Noise | None) -> int | Tensor:
    """What is added before a right shift: one half, or noise."""
    if noise is None:
        return (1 << shift) >> 1
    bits = random_bits(noise.seed, noise.stream, value.shape, value.device)
    return bits >> (32 - shift)


def _align(value: Tensor, shift: int) -> Tensor:
    if shift >= 0:
        return value.int() << shift
    down = min(-shift, MAX_SHIFT)
    return ((value.long() + (1 << (down - 1))) >> down).int()


def _limit(value: Tensor) -> Tensor:
    return value.clamp(-(1 << LIMIT_BITS), 1 << LIMIT_BITS)


def _to_units(value: Tensor, exponent: int) -> Tensor:
    shift = exponent + UNIT_BITS
    if shift < 0:
        down = min(-shift, 62)
        return _limit((value + (1 << (down - 1))) >> down)
    shift = min(shift, LIMIT_BITS)
    bound = (1 << LIMIT_BITS) >> shift
    return value.clamp(-bound, bound) << shift


def _momentum(value: Tensor, step: SgdStep) -> Tensor:
    return (value * step.momentum + (1 << (RATE_BITS - 1))) >> RATE_BITS


def _shift_long(value: Tensor, shift: int, noise: Noise | None) -> Tensor:
    if shift == 0:
        return value
    if noise is None:
        return (value + (1 << (shift - 1))) >> shift
    bits = random_bits(noise.seed, noise.stream, value.shape, value.device)
    bits = bits << (shift - 32) if shift > 32 else bits >> (32 - shift)
    return (value + bits) >> shift
