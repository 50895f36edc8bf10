"""The native kernels as operators of ``torch.compile``, see ``l1bn.ops.operators``."""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.ops import operators, spill
from l1bn.ops.cpu import kernels
from l1bn.ops.cpu.layout import bits_bytes, from_dense, has_rows, layout_of, like, to_layout
from l1bn.ops.records import Call

#: Bytes at the end of the bits: whether channels lay last in the input, and the flag.
FLAG = 2


class _Kernels:
    """As ``l1bn.ops.operators.Kernels`` says."""

    statistics = 3

    def has_rows(self, x: Tensor) -> bool:
        return has_rows(x)

    def like(self, x: Tensor) -> Tensor:
        return like(x)

    def gradient(self, kept: Tensor, rows: bool) -> Tensor:
        return like(kept)

    def bits_bytes(self, shape: torch.Size, rows: bool) -> int:
        # For both layouts: a compiler may run the call in another one than it traced.
        sizes = (bits_bytes(layout_of(shape, rows)) for rows in (False, True))
        return torch.sym_max(*sizes) + FLAG

    def forward(
        self, x: Tensor, residual: Tensor | None, call: Call, bits_size: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        y, statistics, bits, layout = kernels.forward(x, residual, call, bits_size, None)
        if bits is not None:
            outer, channels, inner = layout
            last = channels if inner == 1 else inner
            few = (outer * channels * inner + 15) // 16 * 2
            spill.clear_flag(bits, few if last < 16 else bits_bytes(layout))
        elif bits_size:
            bits = spill.spill(to_layout(x)[0], bits_size)
        if bits is not None:
            bits[-FLAG] = has_rows(x)
        return y, statistics, bits

    def backward(
        self, grad: Tensor, kept: operators.Kept, call: Call, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, ...]:
        x, y, residual, bits, statistics, _ = kept
        output = x if y is None else y
        assert output is not None
        # The output may have been moved since.
        rows = has_rows(output) if bits is None else bool(bits[-FLAG])
        layout = layout_of(grad.shape, rows)
        if bits is not None and bits[-1]:
            behind = spill.behind(bits, grad.numel(), grad.dtype)
            if behind is None:
                raise spill.refuse_copy()
            x, bits = from_dense(behind, layout, grad.shape), None
            residual = operators.read_beside_x(residual, call)
        elif bits is not None:
            bits = bits[: bits_bytes(layout)]
        given = kernels.Kept(layout, statistics, x, bits, residual, y)
        found = kernels.backward(grad, call, given, kernels.Wanted(*wanted))
        return _laid_like(output, found[0]), *found[1:3], _laid_like(output, found[3])


def _laid_like(output: Tensor, gradient: Tensor | None) -> Tensor | None:
    if gradient is None or has_rows(gradient) == has_rows(output):
        return gradient
    return like(output).copy_(gradient)


_, forward, backward = OPERATORS = operators.define("cpu", _Kernels(), "cpu", flexible=True)
