"""Runs an exported integer network in NumPy alone: no torch, no floating point.

The file is an ``.npz`` of integer arrays and one JSON text; ``l1bn.quantized.export`` writes it. It
serves as a specification of what a device must compute, and as its judge.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l1bn.fixed_point.activation import hardswish, relu6
from l1bn.fixed_point.convolution import conv2d
from l1bn.fixed_point.formats import IntArray
from l1bn.fixed_point.geometry import Geometry
from l1bn.fixed_point.scaling import rescale

FORMAT = "l1bn-integer-model-2"


@dataclass(frozen=True)
class IntegerModel:
    """An exported network.

    Attributes:
        operations: What to compute, in order; each names its inputs by their place.
        arrays: Integer arrays, by name.
        input_exponent: Exponent of the images.
        output_exponent: Exponent of the logits.
    """

    operations: list[_Operation]
    arrays: dict[str, IntArray]
    input_exponent: int
    output_exponent: int

    def run(self, images: IntArray) -> IntArray:
        """Return the logits of int8 images.

        Args:
            images: Integers of −127 to 127 in steps of ``2**input_exponent``.

        Shape:
            - images: ``(N, C, H, W)``
            - Output: ``(N, classes)``

        Raises:
            TypeError: If the images are no integers.
        """
        images = np.asarray(images)
        if not np.issubdtype(images.dtype, np.integer):
            raise TypeError(
                f"images: expected a NumPy array of integers, got {images.dtype}; quantize the "
                "images first, and pass the .values.numpy() of a QTensor"
            )
        values: list[IntArray] = []
        for operation in self.operations:
            inputs = [images if i < 0 else values[i] for i in operation["inputs"]]
            compute = _OPERATIONS[operation["kind"]]
            values.append(compute(operation, self.arrays, *(v.astype(np.int64) for v in inputs)))
        return values[-1]


def load_model(path: str | Path) -> IntegerModel:
    """Read an exported network.

    Raises:
        ValueError: If the file is something else, or of another version.
    """
    with np.load(path, allow_pickle=False) as file:
        if "graph" not in file:
            raise ValueError(f"{path}: expected an exported integer model, got other arrays")
        graph = json.loads(str(file["graph"]))
        arrays = {name: file[name] for name in file.files if name != "graph"}
    if graph["format"] != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT}, got {graph['format']}; export it anew")
    return IntegerModel(
        graph["operations"], arrays, graph["input_exponent"], graph["output_exponent"]
    )


_Operation = dict[str, Any]
_Arrays = dict[str, IntArray]


def _product(operation: _Operation, arrays: _Arrays, x: IntArray) -> IntArray:
    """32-bit sums of a convolution, or of a linear layer: x is (N, C) then."""
    weight = arrays[operation["weight"]]
    flat = x.ndim == 2
    acc = conv2d(x[:, :, None, None] if flat else x, weight, **operation["geometry"])
    if operation["bias"] is not None:
        acc = acc + arrays[operation["bias"]].reshape(1, -1, 1, 1)
    return acc[:, :, 0, 0] if flat else acc


def _per_channel(values: IntArray, like: IntArray) -> IntArray:
    return values.astype(np.int64).reshape(1, -1, *([1] * (like.ndim - 2)))


def _rescale(operation: _Operation, arrays: _Arrays, x: IntArray) -> IntArray:
    """8 bits of 32, by one shift or one per channel."""
    shift = operation["shift"]
    return rescale(x, _per_channel(arrays[shift], x) if isinstance(shift, str) else shift)


def _normalize(
    operation: _Operation, arrays: _Arrays, x: IntArray, residual: IntArray | None = None
) -> IntArray:
    """``clip((x · coefficient + offset + half) >> shift)``, plus a residual, then ReLU."""
    coefficient, offset, shift = (
        _per_channel(arrays[operation[name]], x) for name in ("coefficient", "offset", "shift")
    )
    y = np.clip((x * coefficient + offset + (1 << (shift - 1))) >> shift, -128, 127)
    if residual is not None:
        y = np.clip(y + residual, -128, 127)
    return np.maximum(y, 0) if operation["relu"] else y


def _align(operation: _Operation, arrays: _Arrays, x: IntArray) -> IntArray:
    """Another exponent: left or right by ``shift``, saturated."""
    del arrays
    shift = operation["shift"]
    wide = x << -shift if shift < 0 else (x + ((1 << shift) >> 1)) >> shift
    return np.clip(wide, -127, 127)


def _add(operation: _Operation, arrays: _Arrays, a: IntArray, b: IntArray) -> IntArray:
    del operation, arrays
    return np.clip(a + b, -127, 127)


def _relu(operation: _Operation, arrays: _Arrays, x: IntArray) -> IntArray:
    del operation, arrays
    return np.maximum(x, 0)


def _flatten(operation: _Operation, arrays: _Arrays, x: IntArray) -> IntArray:
    del operation, arrays
    return x.reshape(len(x), -1)


def _taps(operation: _Operation, x: IntArray, value: int) -> list[IntArray]:
    """The padded image at each place of its windows."""
    left, right, top, bottom = operation["borders"]
    border = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = np.pad(x, border, constant_values=value)
    geometry = Geometry.of(operation["stride"], dilation=operation["dilation"])
    windows = [
        geometry.windows(tap, operation["output"]) for tap in np.ndindex(*operation["kernel"])
    ]
    return [padded[:, :, rows, columns] for rows, columns in windows]


def _average(operation: _Operation, arrays: _Arrays, x: IntArray) -> IntArray:
    """Sum over each window times 1/pixels, an integer with 22 fraction bits."""
    del arrays
    return np.sum(_taps(operation, x, 0), axis=0) * operation["inverse"]


def _max_pool(operation: _Operation, arrays: _Arrays, x: IntArray) -> IntArray:
    del arrays
    return np.max(_taps(operation, x, -128), axis=0)


def _relu6(operation: _Operation, arrays: _Arrays, x: IntArray) -> IntArray:
    del arrays
    return relu6(x, operation["exponent"])


def _hardswish(operation: _Operation, arrays: _Arrays, x: IntArray) -> IntArray:
    del arrays
    return hardswish(x, operation["exponent"])


def _join(operation: _Operation, arrays: _Arrays, *parts: IntArray) -> IntArray:
    del operation, arrays
    return np.concatenate(parts, axis=1)


def _upsample(operation: _Operation, arrays: _Arrays, x: IntArray) -> IntArray:
    del arrays
    down, across = operation["scale"]
    return x.repeat(down, axis=2).repeat(across, axis=3)


def _pad(operation: _Operation, arrays: _Arrays, x: IntArray) -> IntArray:
    """Zeros around an image; negative borders take pixels away."""
    del arrays
    left, right, top, bottom = operation["borders"]
    more = [max(b, 0) for b in (left, right, top, bottom)]
    less = [max(-b, 0) for b in (left, right, top, bottom)]
    x = np.pad(x, ((0, 0), (0, 0), (more[2], more[3]), (more[0], more[1])))
    height, width = x.shape[2:]
    return x[:, :, less[2] : height - less[3], less[0] : width - less[1]]


_OPERATIONS: dict[str, Callable[..., IntArray]] = {
    "product": _product,
    "rescale": _rescale,
    "normalize": _normalize,
    "align": _align,
    "add": _add,
    "relu": _relu,
    "flatten": _flatten,
    "average": _average,
    "max_pool": _max_pool,
    "relu6": _relu6,
    "hardswish": _hardswish,
    "join": _join,
    "upsample": _upsample,
    "pad": _pad,
}
