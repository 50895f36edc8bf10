"""The native kernels as operators of ``torch.compile``, see ``l1bn.ops.operators``."""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.activation import clips
from l1bn.ops import operators, spill
from l1bn.ops.cpu import kernels
from l1bn.ops.cpu.layout import bits_bytes, from_dense, has_rows, layout_of, to_layout
from l1bn.ops.records import Call

#: Bytes after the kernels' bits, of which the last one is the flag.
FLAG = 2


class _Kernels:
    """As ``l1bn.ops.operators.Kernels`` says."""

    statistics = 3

    def has_rows(self, x: Tensor) -> bool:
        return has_rows(x)

    def empty_like(self, v: Tensor, rows: bool) -> Tensor:
        if not rows:
            return torch.empty_like(v, memory_format=torch.contiguous_format)
        last = torch.empty_like(v.movedim(1, -1), memory_format=torch.contiguous_format)
        return last.movedim(-1, 1)

    def bits_bytes(self, shape: torch.Size, rows: bool) -> int:
        return bits_bytes(layout_of(shape, rows)) + FLAG

    def forward(
        self, x: Tensor, residual: Tensor | None, call: Call, want_bits: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        found = kernels.forward(x, residual, call, want_bits, None, FLAG)
        y, statistics, bits, layout = found
        if bits is not None:
            outer, channels, inner = layout
            last = channels if inner == 1 else inner
            few = (outer * channels * inner + 15) // 16 * 2
            used = few if last < 16 else bits_bytes(layout)
            bits[used:] = 0  # what the kernels leave as it is, and the flag
        elif want_bits:
            bits = spill.spill(to_layout(x)[0], bits_bytes(layout) + FLAG)
        return y, statistics, bits

    def backward(
        self, grad: Tensor, kept: operators.Kept, call: Call, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, ...]:
        x, y, residual, bits, statistics, rows = kept
        layout = layout_of(grad.shape, rows)
        if bits is not None and bits[-1]:
            behind = spill.behind(bits, grad.numel(), grad.dtype)
            if behind is None:
                raise spill.refuse_copy()
            x, bits = from_dense(behind, layout, grad.shape), None
            if call.activation is None or clips(call.activation):
                residual = None  # elsewhere z is made of both
        elif bits is not None:
            bits = bits[:-FLAG]
        found = kernels.Kept(layout, statistics, x, bits, residual, y)
        return kernels.backward(grad, call, found, kernels.Wanted(*wanted))


forward, backward = OPERATORS = operators.define("cpu", _Kernels(), "cpu")
