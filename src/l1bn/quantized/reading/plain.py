"""Integer forms of layers without weights."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from l1bn.quantized.layers import (
    AveragePoolLayer,
    Clock,
    DropoutLayer,
    FlattenLayer,
    HardswishLayer,
    IdentityLayer,
    IntegerLayer,
    MaxPoolLayer,
    OverlappingAveragePoolLayer,
    PadLayer,
    Relu6Layer,
    ReluLayer,
    UpsampleLayer,
)
from l1bn.quantized.reading.spellings import ADVICE, Flattening, UnsupportedError
from l1bn.quantized.reading.trace import Step
from l1bn.quantized.reading.windows import (
    AdaptivePool,
    AveragePool,
    MaxPool,
    average_window,
    borders,
    copies,
    max_window,
    windows_down_and_across,
)

_MOST_DROPPED = 0.99
At = tuple[str, int, Clock]


def _flatten(at: At, step: Step) -> IntegerLayer:
    module = step.module
    if isinstance(module, Flattening):
        return FlattenLayer(*at, module.features)
    assert isinstance(module, nn.Flatten)
    if (module.start_dim, module.end_dim) != (1, -1):
        raise UnsupportedError(
            f"{step.title}: expected nn.Flatten(1), got start and end "
            f"{(module.start_dim, module.end_dim)}; flatten all but the batch"
        )
    return FlattenLayer(*at)


def _dropout(at: At, step: Step) -> IntegerLayer:
    module = step.module
    assert isinstance(module, (nn.Dropout, nn.Dropout1d, nn.Dropout2d))
    if module.p == 0:
        return IdentityLayer(*at)
    if module.p > _MOST_DROPPED:
        raise UnsupportedError(
            f"{step.title}: expected a probability of at most {_MOST_DROPPED}, got {module.p}; "
            "drop less"
        )
    return DropoutLayer(*at, module.p, channels=not isinstance(module, nn.Dropout))


def _maximum(at: At, step: Step) -> IntegerLayer:
    assert isinstance(step.module, MaxPool)
    return MaxPoolLayer(*at, max_window(step.title, step.module))


def _average(at: At, step: Step) -> IntegerLayer:
    assert isinstance(step.module, AveragePool)
    window = average_window(step.title, step.module)
    if window.stride == window.kernel and not any(window.padding):
        return AveragePoolLayer(*at, window.kernel)
    return OverlappingAveragePoolLayer(*at, window)


def _adaptive(at: At, step: Step) -> IntegerLayer:
    assert isinstance(step.module, AdaptivePool)
    return AveragePoolLayer(*at, output=windows_down_and_across(step.title, step.module))


def _upsample(at: At, step: Step) -> IntegerLayer:
    assert isinstance(step.module, nn.Upsample)
    return UpsampleLayer(*at, copies(step.title, step.module, lines=step.rank == 3))


def _pad(at: At, step: Step) -> IntegerLayer:
    assert step.module is not None
    return PadLayer(*at, borders(step.title, step.module))


def _plain(kind: type[IntegerLayer]) -> Callable[[At, Step], IntegerLayer]:
    return lambda at, _: kind(*at)


PADS = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d)

_LAYERS: tuple[tuple[tuple[type[nn.Module], ...], Callable[[At, Step], IntegerLayer]], ...] = (
    ((nn.ReLU6,), _plain(Relu6Layer)),
    ((nn.ReLU,), _plain(ReluLayer)),
    ((nn.Hardswish,), _plain(HardswishLayer)),
    ((nn.Flatten, Flattening), _flatten),
    ((nn.Identity,), _plain(IdentityLayer)),
    ((nn.Dropout, nn.Dropout1d, nn.Dropout2d), _dropout),
    ((nn.MaxPool1d, nn.MaxPool2d), _maximum),
    ((nn.AvgPool1d, nn.AvgPool2d), _average),
    ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), _adaptive),
    ((nn.Upsample,), _upsample),
    (PADS, _pad),
)


def plain_layer(at: At, step: Step) -> IntegerLayer:
    """Return the integer form of a layer without weights.

    Args:
        at: Name, number in the network and clock.
        step: The layer.

    Raises:
        UnsupportedError: If there is none; it names the layer and what to use instead.
    """
    for kinds, make in _LAYERS:
        if isinstance(step.module, kinds):
            return make(at, step)
    raise UnsupportedError(_no_form(step))


def _no_form(step: Step) -> str:
    kind = type(step.module).__name__
    way = ADVICE.get(kind, "replace or remove it")
    return (
        f"{step.title}: expected a layer with an integer form (Conv2d, Linear, L1BN, BatchNorm, "
        f"ReLU, ReLU6, Hardswish, a pooling, Dropout, Upsample, ZeroPad2d, Flatten, addition), got "
        f"{kind}; {way}"
    )
