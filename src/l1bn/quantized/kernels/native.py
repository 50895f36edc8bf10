"""Integer training by the compiled kernels of ``csrc/``, on the CPU."""

from __future__ import annotations

from torch import Tensor

from l1bn.fixed_point.norm.spec import NormSpec
from l1bn.fixed_point.update import SgdStep
from l1bn.ops.int8 import conv as int8_conv
from l1bn.ops.int8 import norm as int8_norm
from l1bn.ops.int8.elements import NEAREST, Rounding, add_scaled, rescale, sgd_step
from l1bn.quantized.tensor import Noise


def unavailable() -> str | None:
    """Say why the kernels cannot be used here, or None where they can."""
    return int8_conv.available() or int8_norm.available()


class NativeKernels:
    """See ``l1bn.quantized.kernels.interface.Kernels``."""

    name = "cpu"

    def conv2d(self, x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor]:
        """See ``Kernels``."""
        return int8_conv.conv2d(x, weight, stride, padding)

    def conv2d_input_gradient(
        self, error: Tensor, weight: Tensor, size: tuple[int, int], stride: int, padding: int
    ) -> tuple[Tensor, Tensor]:
        """See ``Kernels``."""
        return int8_conv.conv2d_input_gradient(error, weight, size, stride, padding)

    def conv2d_weight_gradient(
        self, x: Tensor, error: Tensor, kernel: tuple[int, int], stride: int, padding: int
    ) -> Tensor:
        """See ``Kernels``."""
        return int8_conv.conv2d_weight_gradient(x, error, kernel, stride, padding)

    def rescale(self, value: Tensor, shift: int | Tensor, bits: int, noise: Noise | None) -> Tensor:
        """See ``Kernels``."""
        right = shift.int() if isinstance(shift, Tensor) else shift
        return rescale(value, right, bits, _rounding(noise))

    def norm_forward(
        self,
        acc: Tensor,
        shift: Tensor,
        gamma: Tensor,
        beta: Tensor,
        spec: NormSpec,
        residual: Tensor | None,
        relu: bool,
    ) -> tuple[Tensor, Tensor, int8_norm.NormState]:
        """See ``Kernels``."""
        right = shift.int()
        return int8_norm.norm_forward_fused(acc, right, gamma, beta, spec, residual, relu)

    def norm_apply(
        self,
        x: Tensor,
        coefficient: Tensor,
        offset: Tensor,
        shift: Tensor,
        residual: Tensor | None,
        relu: bool,
    ) -> Tensor:
        """See ``Kernels``."""
        c, o, s = (a.int() for a in (coefficient, offset, shift))
        return int8_norm.norm_apply(x, c, o, s, residual=residual, relu=relu)

    def norm_backward(
        self,
        g: Tensor,
        x: Tensor,
        y: Tensor | None,
        state: int8_norm.NormState,
        *,
        spec: NormSpec,
        g_exponent: int,
        x_exponent: Tensor,
        bits: int,
        noise: Noise | None,
        residual: bool,
    ) -> int8_norm.Gradients:
        """See ``Kernels``."""
        return int8_norm.norm_backward(
            g,
            x,
            y,
            state,
            spec,
            g_exponent,
            x_exponent.int(),
            bits=bits,
            rounding=_rounding(noise),
            residual=residual,
        )

    def add(
        self, a: Tensor, a_exponent: int, b: Tensor, b_exponent: int, bits: int, noise: Noise | None
    ) -> tuple[Tensor, int]:
        """See ``Kernels``."""
        return add_scaled(a, a_exponent, b, b_exponent, bits, _rounding(noise))

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
        noise: tuple[Noise, Noise] | None,
    ) -> int:
        """See ``Kernels``."""
        return sgd_step(
            weight,
            momentum,
            gradient,
            step,
            exponent=exponent,
            momentum_exponent=momentum_exponent,
            gradient_exponent=gradient_exponent,
            bits=bits,
            rounding=_rounding(None if noise is None else noise[0]),
        )


def _rounding(noise: Noise | None) -> Rounding:
    if noise is None:
        return NEAREST
    return Rounding(True, noise.seed, noise.stream)
