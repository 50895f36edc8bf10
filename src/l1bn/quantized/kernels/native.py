"""Integer training by the compiled kernels of ``csrc/``, on the CPU."""

from __future__ import annotations

from l1bn.ops.int8 import conv, elements, norm


def unavailable() -> str | None:
    """Say why the kernels cannot be used here, or None where they can."""
    return conv.available() or norm.available()


class NativeKernels:
    """The functions of ``l1bn.ops.int8``, which are a backend as they are: see ``Kernels``."""

    name = "cpu"
    conv2d = staticmethod(conv.conv2d)
    conv2d_input_gradient = staticmethod(conv.conv2d_input_gradient)
    conv2d_weight_gradient = staticmethod(conv.conv2d_weight_gradient)
    rescale = staticmethod(elements.rescale)
    norm_forward = staticmethod(norm.norm_forward_fused)
    norm_apply = staticmethod(norm.norm_apply)
    norm_backward = staticmethod(norm.norm_backward)
    add = staticmethod(elements.add_scaled)
    sgd_step = staticmethod(elements.sgd_step)
