r"""The activations that can be computed together with the normalization: one description of each.

Judge, formula, backends, layers and conversion all take an activation from here. A call names one
by a string, or by a string and its parameter where it has one: ``"silu"``, ``("leaky_relu", 0.2)``.

Backward needs act′(z), and x̂ for γ. Where z can be read off the output
(``output`` is there, and the parameter allows it) training keeps the output, which the next layer
keeps anyway. Elsewhere it keeps what goes into z, and computes z again.

To add one: add its row to ``_ROWS``, its layer to ``l1bn.nn.fusable`` and, for the native kernels,
its code to ``csrc/norm/interface.h`` and ``l1bn.ops.cpu.kernels`` and its functions to
``csrc/norm/curve.h``. Without the latter it is computed by itself after the normalization.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

#: An activation in a call: its name, or its name and parameter.
Activation = str | tuple[str, float]


class Output(NamedTuple):
    """How backward goes on from the output y alone.

    Attributes:
        passed: gradient of z from that of y, from y and the parameter.
        inverse: z from y and the parameter, where a gradient passes.
        top: where the gradient passes as it is for 0 < y < top, and not at all elsewhere.
        narrow: also from a y of 16 bits, whose rounding would be in the gradient.
    """

    passed: Callable[[Tensor, Tensor, float], Tensor]
    inverse: Callable[[Tensor, float], Tensor]
    top: float | None = None
    narrow: bool = True


class Description(NamedTuple):
    """One activation.

    Attributes:
        name: its name in a call.
        value: y from z and the parameter.
        slope: act'(z) from z and the parameter, differentiable.
        kinks: values of z where the slope jumps.
        output: how backward goes on from y alone, ``None`` where it cannot.
        parameter: what the parameter is where a call gives none, ``None`` where there is none.
        over: ``value``, written over z; ``None`` where PyTorch has none.
    """

    name: str
    value: Callable[[Tensor, float], Tensor]
    slope: Callable[[Tensor, float], Tensor]
    kinks: tuple[float, ...] = ()
    output: Output | None = None
    parameter: float | None = None
    over: Callable[[Tensor, float], Tensor] | None = None


def _where(condition: Tensor, a: float, b: float, like: Tensor) -> Tensor:
    return torch.where(condition, torch.full_like(like, a), b)


def _keep(y: Tensor, _: float) -> Tensor:
    return y


def _clipped(top: float) -> Output:
    def passed(g: Tensor, y: Tensor, _: float) -> Tensor:
        return torch.where(_below(top, y), g, 0.0)

    return Output(passed, _keep, top)


def _below(top: float, y: Tensor) -> Tensor:
    # An infinite output of ReLU passes its gradient too.
    return y > 0 if top == math.inf else (y > 0) & (y < top)


def _leaky_passed(g: Tensor, y: Tensor, slope: float) -> Tensor:
    return torch.where(y > 0, g, g * slope)


def _leaky_inverse(y: Tensor, slope: float) -> Tensor:
    return torch.where(y > 0, y, y / slope)


def _elu_slope(z: Tensor, alpha: float) -> Tensor:
    # Of a positive z the exponential may be infinite, and infinity times 0 is NaN in a gradient.
    return torch.where(z > 0, 1.0, alpha * z.clamp_max(0).exp())


def _elu_passed(g: Tensor, y: Tensor, alpha: float) -> Tensor:
    return torch.where(y > 0, g, g * (y + alpha))


def _elu_inverse(y: Tensor, alpha: float) -> Tensor:
    # Where y has become -alpha no gradient passes, and z may be anything finite.
    tiny = torch.finfo(y.dtype).eps / 2
    return torch.where(y > 0, y, (y.clamp_max(0) / alpha).clamp_min(tiny - 1).log1p())


def _silu_slope(z: Tensor, _: float) -> Tensor:
    s = z.sigmoid()
    return s * (1 + z * (1 - s))


def _hardswish_slope(z: Tensor, _: float) -> Tensor:
    return torch.where(z >= 3, 1.0, torch.where(z <= -3, 0.0, z / 3 + 0.5))


def _hardsigmoid_slope(z: Tensor, _: float) -> Tensor:
    return _where((z > -3) & (z < 3), 1 / 6, 0.0, z)


def _gelu_slope(z: Tensor, _: float) -> Tensor:
    density = (-0.5 * z * z).exp() / math.sqrt(2 * math.pi)
    return 0.5 * torch.special.erfc(-z * math.sqrt(0.5)) + z * density


def _gelu_tanh_slope(z: Tensor, _: float) -> Tensor:
    root, cubic = math.sqrt(2 / math.pi), 0.044715
    t = (root * (z + cubic * z * z * z)).tanh()
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * root * (1 + 3 * cubic * z * z)


def _mish_slope(z: Tensor, _: float) -> Tensor:
    t = F.softplus(z).tanh()
    return t + z * z.sigmoid() * (1 - t * t)


def _sigmoid_slope(z: Tensor, _: float) -> Tensor:
    s = z.sigmoid()
    return s * (1 - s)


def _tanh_slope(z: Tensor, _: float) -> Tensor:
    t = z.tanh()
    return 1 - t * t


_ROWS = (
    Description(
        "relu", lambda z, _: torch.relu(z), lambda z, _: _where(z > 0, 1.0, 0.0, z),
        (0.0,), _clipped(math.inf), over=lambda z, _: z.relu_(),
    ),
    Description(
        "relu6", lambda z, _: F.relu6(z), lambda z, _: _where((z > 0) & (z < 6), 1.0, 0.0, z),
        (0.0, 6.0), _clipped(6.0), over=lambda z, _: F.relu6(z, inplace=True),
    ),
    Description(
        "leaky_relu", lambda z, slope: F.leaky_relu(z, slope),
        lambda z, slope: _where(z > 0, 1.0, slope, z), (0.0,),
        Output(_leaky_passed, _leaky_inverse), 0.01,
        over=lambda z, slope: F.leaky_relu(z, slope, inplace=True),
    ),
    Description(
        "elu", lambda z, alpha: F.elu(z, alpha), _elu_slope, (0.0,),
        Output(_elu_passed, _elu_inverse, narrow=False), 1.0,
        over=lambda z, alpha: F.elu(z, alpha, inplace=True),
    ),
    Description(
        "silu", lambda z, _: F.silu(z), _silu_slope, over=lambda z, _: F.silu(z, inplace=True)
    ),
    Description(
        "hardswish", lambda z, _: F.hardswish(z), _hardswish_slope, (-3.0, 3.0),
        over=lambda z, _: F.hardswish(z, inplace=True),
    ),
    Description(
        "hardsigmoid", lambda z, _: F.hardsigmoid(z), _hardsigmoid_slope, (-3.0, 3.0),
        over=lambda z, _: F.hardsigmoid(z, inplace=True),
    ),
    Description("gelu", lambda z, _: F.gelu(z), _gelu_slope),
    Description("gelu_tanh", lambda z, _: F.gelu(z, approximate="tanh"), _gelu_tanh_slope),
    Description(
        "mish", lambda z, _: F.mish(z), _mish_slope, over=lambda z, _: F.mish(z, inplace=True)
    ),
    Description(
        "sigmoid", lambda z, _: torch.sigmoid(z), _sigmoid_slope, over=lambda z, _: z.sigmoid_()
    ),
    Description("tanh", lambda z, _: torch.tanh(z), _tanh_slope, over=lambda z, _: z.tanh_()),
)  # fmt: skip
#: Every activation by name.
DESCRIPTIONS = {row.name: row for row in _ROWS}
_BARE = {row.name: (row, row.parameter or 0.0) for row in _ROWS}


def split(activation: Activation) -> tuple[Description, float]:
    """What an activation of a call is, and its parameter; 0 where it has none.

    Raises:
        ValueError: there is none of that name, or it takes no parameter.
    """
    if type(activation) is str and activation in _BARE:
        return _BARE[activation]
    name, parameter = activation if _is_pair(activation) else (None, 0.0)
    found = DESCRIPTIONS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(
            f"expected activation None or one of {list(DESCRIPTIONS)}, got {activation!r}: "
            "apply any other activation to the output"
        )
    if found.parameter is None:
        raise ValueError(
            f"expected activation {name!r} without a parameter, got {activation!r}: pass its name"
        )
    return found, float(parameter)


def _is_pair(activation: object) -> TypeGuard[tuple[object, float]]:
    return (
        isinstance(activation, tuple)
        and len(activation) == 2
        and isinstance(activation[1], (int, float))
    )


#: Smallest parameter with which z is read off the output: below it a 16-bit y has few digits left.
_FLATTEST = 1e-3


def output_of(activation: Activation) -> Output | None:
    """How backward goes on from the output alone, ``None`` where this parameter allows it not."""
    found, parameter = split(activation)
    return found.output if found.parameter is None or parameter >= _FLATTEST else None


def keeps_output(activation: Activation | None, dtype: torch.dtype = torch.float32) -> bool:
    """Whether training keeps the output, of that dtype."""
    output = None if activation is None else output_of(activation)
    return output is not None and (output.narrow or dtype.itemsize > 2)


def clips(activation: Activation) -> bool:
    """Whether the gradient passes as it is, or not at all: as through ReLU and ReLU6."""
    return top(activation) is not None


def top(activation: Activation) -> float | None:
    """Where the gradient passes as it is: for 0 < y < top. ``None`` where it does not."""
    output = output_of(activation)
    return None if output is None else output.top


def alive(y: Tensor, activation: Activation) -> Tensor:
    """Where an activation that clips passes a gradient, read off its output."""
    bound = top(activation)
    assert bound is not None
    return _below(bound, y)


def activate(z: Tensor, activation: Activation | None) -> Tensor:
    """Apply an activation, or none."""
    if activation is None:
        return z
    found, parameter = split(activation)
    return found.value(z, parameter)


def activate_over(z: Tensor, activation: Activation | None) -> Tensor:
    """Apply an activation, or none, to a tensor that nobody else has: over it where that goes."""
    if activation is None:
        return z
    found, parameter = split(activation)
    return (found.over or found.value)(z, parameter)


def slope(z: Tensor, activation: Activation | None) -> Tensor:
    """act'(z), as PyTorch defines it at the kinks."""
    if activation is None:
        return torch.ones_like(z)
    found, parameter = split(activation)
    return found.slope(z, parameter)


def passed(g: Tensor, y: Tensor, activation: Activation) -> Tensor:
    """What becomes of the gradient of the output y on its way to z.

    Raises:
        ValueError: z cannot be read off the output.
    """
    output, parameter = _read(activation)
    return output.passed(g, y, parameter)


def inverse(y: Tensor, activation: Activation | None) -> Tensor:
    """Z from the output y, where a gradient passes; anything finite elsewhere.

    Raises:
        ValueError: z cannot be read off the output.
    """
    if activation is None:
        return y
    output, parameter = _read(activation)
    return output.inverse(y, parameter)


def _read(activation: Activation) -> tuple[Output, float]:
    output = output_of(activation)
    if output is None:
        raise ValueError(
            f"expected an activation that can be read off its output, got {activation!r}"
        )
    return output, split(activation)[1]
