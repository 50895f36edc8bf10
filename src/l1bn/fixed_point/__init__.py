"""L1BN and L2BN, forward and backward, in integers only (NumPy, no torch).

The judge of the quantized layers and of the hardware: what they compute must equal it bit by bit.
docs/integers/fixed_point.md lists every width, proves that nothing overflows, and gives the error
against float64.

    >>> import numpy as np
    >>> from l1bn import fixed_point as fp
    >>> spec = fp.NormSpec(width=8)
    >>> x = np.array([[-40, 10, 25, -3], [7, 7, 9, 5]])
    >>> gamma, beta = spec.gamma.quantize([1.0, 0.5]), spec.output.quantize([0.0, 1.0])
    >>> fp.l1_forward(x, gamma, beta, spec).y
    array([[-25,   8,  18,  -1],
           [ 16,  16,  29,   3]])
"""

from l1bn.fixed_point.addition import add_scaled
from l1bn.fixed_point.convolution import conv2d, conv2d_input_gradient, conv2d_weight_gradient
from l1bn.fixed_point.formats import Format, random_bits, rounding_noise
from l1bn.fixed_point.norm.backward import Backward, Slopes, l1_backward, l1_slopes, l2_backward
from l1bn.fixed_point.norm.constant import (
    Sides,
    constant_layer_backward,
    constant_layer_forward,
    settle,
    sides,
    toward,
)
from l1bn.fixed_point.norm.layer import (
    LayerGradient,
    norm_layer_backward,
    norm_layer_forward,
)
from l1bn.fixed_point.norm.normalize import (
    Channel,
    Forward,
    Reciprocal,
    fold,
    l1_forward,
    l2_forward,
    normalize,
    reciprocal,
)
from l1bn.fixed_point.norm.running import RUNNING_BITS, Running, evaluate
from l1bn.fixed_point.norm.spec import NormSpec, Widths, check_accumulators, widths
from l1bn.fixed_point.norm.statistics import (
    L1Statistics,
    L2Statistics,
    l1_statistics,
    l2_statistics,
)
from l1bn.fixed_point.scaling import common_exponent, memory_order, peak_shift, rescale
from l1bn.fixed_point.update import Master, SgdStep, accumulate, make_room, sgd_step

__all__ = [
    "RUNNING_BITS",
    "Backward",
    "Channel",
    "Format",
    "Forward",
    "L1Statistics",
    "L2Statistics",
    "LayerGradient",
    "Master",
    "NormSpec",
    "Reciprocal",
    "Running",
    "SgdStep",
    "Sides",
    "Slopes",
    "Widths",
    "accumulate",
    "add_scaled",
    "check_accumulators",
    "common_exponent",
    "constant_layer_backward",
    "constant_layer_forward",
    "conv2d",
    "conv2d_input_gradient",
    "conv2d_weight_gradient",
    "evaluate",
    "fold",
    "l1_backward",
    "l1_forward",
    "l1_slopes",
    "l1_statistics",
    "l2_backward",
    "l2_forward",
    "l2_statistics",
    "make_room",
    "memory_order",
    "norm_layer_backward",
    "norm_layer_forward",
    "normalize",
    "peak_shift",
    "random_bits",
    "reciprocal",
    "rescale",
    "rounding_noise",
    "settle",
    "sgd_step",
    "sides",
    "toward",
    "widths",
]
