"""Integer training by the compiled kernels of ``csrc/``, on the CPU."""

from __future__ import annotations

from torch import Tensor

from l1bn.ops import int8_conv
from l1bn.quantized.kernels.eager import EagerKernels

__all__ = ["NativeKernels", "unavailable"]


def unavailable() -> str | None:
    """Say why the kernels cannot be used here, or None where they can."""
    return int8_conv.available()


class NativeKernels(EagerKernels):
    """See `l1bn.quantized.kernels.interface.Kernels`."""

    name = "cpu"

    def conv2d(self, x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Tensor, Tensor]:
        """See `Kernels`."""
        return int8_conv.conv2d(x, weight, stride, padding)

    def conv2d_input_gradient(
        self, error: Tensor, weight: Tensor, size: tuple[int, int], stride: int, padding: int
    ) -> tuple[Tensor, Tensor]:
        """See `Kernels`."""
        return int8_conv.conv2d_input_gradient(error, weight, size, stride, padding)

    def conv2d_weight_gradient(
        self, x: Tensor, error: Tensor, kernel: tuple[int, int], stride: int, padding: int
    ) -> Tensor:
        """See `Kernels`."""
        return int8_conv.conv2d_weight_gradient(x, error, kernel, stride, padding)
