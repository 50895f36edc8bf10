"""Reads the windows of poolings, and what they cannot be refused by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from l1bn.quantized.layers.window import Pair, Window
from l1bn.quantized.reading.spellings import UnsupportedError

_LARGEST = 127  # places in a window are kept in 8 bits

MaxPool = nn.MaxPool1d | nn.MaxPool2d
AveragePool = nn.AvgPool1d | nn.AvgPool2d
AdaptivePool = nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d


def pair(size: int | Sequence[int], module: nn.Module, other: int = 1) -> Pair:
    """Return an option down and across; a layer of one dimension has rows of one pixel.

    Args:
        size: The option.
        module: The layer.
        other: The option of the dimension that a layer of one dimension has not.
    """
    if type(module).__name__.endswith("1d"):
        return other, size if isinstance(size, int) else size[0]
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def max_window(title: str, pool: MaxPool) -> Window:
    """Return the windows of a max pooling.

    Raises:
        UnsupportedError: If it returns indices, or a window has more pixels than 8 bits count.
    """
    if pool.return_indices:
        raise UnsupportedError(f"{title}: expected return_indices=False, got True; leave it out")
    window = Window(
        kernel=pair(pool.kernel_size, pool),
        stride=pair(pool.kernel_size if pool.stride is None else pool.stride, pool),
        padding=pair(pool.padding, pool, 0),
        dilation=pair(pool.dilation, pool),
        ceil=pool.ceil_mode,
    )
    if window.kernel[0] * window.kernel[1] > _LARGEST:
        raise UnsupportedError(
            f"{title}: expected windows of at most {_LARGEST} pixels, got "
            f"{window.kernel[0]} x {window.kernel[1]}; pool in two steps"
        )
    return window


def average_window(title: str, pool: AveragePool) -> Window:
    """Return the windows of an average pooling.

    Raises:
        UnsupportedError: If not all windows have one divisor.
    """
    window = Window(
        kernel=pair(pool.kernel_size, pool),
        stride=pair(pool.kernel_size if pool.stride is None else pool.stride, pool),
        padding=pair(pool.padding, pool, 0),
    )
    wrong = {
        "ceil_mode": pool.ceil_mode,
        "count_include_pad=False beside padding": any(window.padding)
        and not pool.count_include_pad,
        "divisor_override": getattr(pool, "divisor_override", None) is not None,
    }
    for option, given in wrong.items():
        if given:
            raise UnsupportedError(
                f"{title}: expected averages of one divisor, the window's pixels, got {option}; "
                "leave it out"
            )
    return window


def windows_down_and_across(title: str, pool: AdaptivePool) -> Pair:
    """Return how many averages an adaptive pooling takes.

    Raises:
        UnsupportedError: If it leaves a size as it is.
    """
    found = pair(pool.output_size, pool)  # type: ignore[arg-type]
    if any(n is None for n in found):
        raise UnsupportedError(f"{title}: expected two output sizes, got {found}; give both")
    return found


def copies(title: str, upsample: nn.Upsample, lines: bool) -> Pair:
    """Return how often an upsampling copies each pixel.

    Args:
        title: Name, type and place of the layer, for errors.
        upsample: The layer.
        lines: Whether it sees lines, which have one row.

    Raises:
        UnsupportedError: If it interpolates, or does not copy each pixel equally often.
    """
    scale = upsample.scale_factor
    sides = scale if isinstance(scale, tuple) else (scale,) if lines else (scale, scale)
    sides = (1, *sides) if len(sides) == 1 else sides
    whole = [int(s) for s in sides if s is not None and s == int(s) and s >= 1]
    if upsample.mode != "nearest" or len(whole) != 2:
        raise UnsupportedError(
            f"{title}: expected whole scale factors with mode='nearest', got mode "
            f"{upsample.mode!r}, scale_factor {scale}, size {upsample.size}; copy pixels by "
            "nn.Upsample(scale_factor=2)"
        )
    return whole[0], whole[1]


def borders(title: str, pad: nn.Module) -> tuple[int, int, int, int]:
    """Return what a padding by zeros adds left, right, above and below [pixels].

    Raises:
        UnsupportedError: If it pads by another number, or more than two dimensions.
    """
    size = pad.padding
    sides = (size,) * 4 if isinstance(size, int) else tuple(size)  # type: ignore[arg-type]
    if type(pad).__name__.endswith("1d"):
        sides = (*sides[:2], 0, 0)
    if len(sides) != 4 or getattr(pad, "value", 0) != 0:
        raise UnsupportedError(
            f"{title}: expected zeros around images, got {pad}; use nn.ZeroPad2d"
        )
    return sides
