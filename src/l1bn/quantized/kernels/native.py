"""Integer training by the compiled kernels of ``csrc/``, on the CPU."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from l1bn.fixed_point.geometry import Geometry
from l1bn.ops.int8 import conv, elements, norm
from l1bn.quantized.kernels.interface import Constants


def unavailable() -> str | None:
    """Say why the kernels cannot be used here, or None where they can."""
    return conv.available() or norm.available()


class NativeKernels:
    """The functions of ``l1bn.ops.int8``, nearly as they are: see ``Kernels``."""

    name = "cpu"
    rescale = staticmethod(elements.rescale)
    norm_forward = staticmethod(norm.norm_forward_fused)
    norm_apply = staticmethod(norm.norm_apply)
    norm_sides = staticmethod(norm.norm_sides)
    norm_backward = staticmethod(norm.norm_backward)
    add = staticmethod(elements.add_scaled)
    sgd_step = staticmethod(elements.sgd_step)

    def conv2d(self, x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """See ``Kernels``."""
        return conv.conv2d(x, weight, *geometry)

    def conv2d_input_gradient(
        self, error: Tensor, weight: Tensor, size: tuple[int, int], geometry: Geometry
    ) -> tuple[Tensor, Tensor]:
        """See ``Kernels``."""
        return conv.conv2d_input_gradient(error, weight, size, **geometry._asdict())

    def conv2d_weight_gradient(
        self, x: Tensor, error: Tensor, kernel: tuple[int, int], geometry: Geometry
    ) -> Tensor:
        """See ``Kernels``."""
        return conv.conv2d_weight_gradient(x, error, kernel, **geometry._asdict())

    def norm_backward_constant(
        self, g: Tensor, x: Tensor, y: Tensor | None, constants: Constants, **options: Any
    ) -> norm.Gradients:
        """See ``Kernels``."""
        c = constants
        state = norm.constant_state(c.count, c.total, c.deviation, c.coefficient, c.shift)
        return norm.norm_backward(g, x, y, state, constant=True, **options)
