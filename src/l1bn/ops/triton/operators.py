"""The GPU kernels as operators of ``torch.compile``, see ``l1bn.ops.operators``.

Imports no triton before a kernel runs: a compiler cannot import while it traces, so this module is
loaded beforehand.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from l1bn.ops import operators, spill
from l1bn.ops.records import Call
from l1bn.ops.triton.plan import CHANNELS_LAST, STATISTICS, bits_bytes, order_of


class _Kernels:
    """As ``l1bn.ops.operators.Kernels`` says."""

    statistics = STATISTICS

    def has_rows(self, x: Tensor) -> bool:
        return order_of(x) != torch.contiguous_format

    def empty_like(self, v: Tensor, rows: bool) -> Tensor:
        return torch.empty_like(v, memory_format=_format(v.dim(), rows))

    def bits_bytes(self, shape: torch.Size, rows: bool) -> int:
        positions = math.prod(shape[2:])
        return bits_bytes(shape[0], shape[1], positions, rows or positions == 1) + 1

    def forward(
        self, x: Tensor, residual: Tensor | None, call: Call, want_bits: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        from l1bn.ops.triton import decide

        wanted = decide.Wanted(want_bits, True, flag=True)
        y, kept, recoverable = decide.forward(x, residual, call, None, wanted)
        bits = kept.bits
        if want_bits and not recoverable:
            assert kept.x is not None  # dense, as forward reads it
            size = self.bits_bytes(x.shape, not y.is_contiguous())
            bits = spill.spill(kept.x, size)
        return y, kept.statistics, bits

    def backward(
        self, grad: Tensor, kept: operators.Kept, call: Call, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, ...]:
        from l1bn.ops.triton import decide, launch

        order = _format(grad.dim(), kept.rows)
        x, y, residual = (
            v if v is None else v.resolve_neg().contiguous(memory_format=order) for v in kept[:3]
        )
        bits = kept.bits
        if bits is not None and y is not None:
            behind = spill.behind(bits, y.numel(), y.dtype)
            if behind is not None:
                x, bits = behind.as_strided(y.shape, y.stride()), None
            elif spill.is_copy(bits) and bits[-1]:  # waits for the device, there alone
                raise spill.refuse_copy()
        dense_call = call._replace(weight=decide.plain(call.weight), bias=decide.plain(call.bias))
        of_x, of_parameters, of_residual = wanted
        dx, dweight, dbias, dresidual = launch.backward(
            grad.resolve_neg(),
            launch.Kept(x, y, residual, bits, kept.statistics),
            dense_call,
            (of_x, of_parameters, of_parameters, of_residual),
        )
        return dx, *(_wide(v, kept.statistics, of_parameters) for v in (dweight, dbias)), dresidual


def _wide(vector: Tensor | None, statistics: Tensor, wanted: bool) -> Tensor | None:
    """A parameter's gradient in the dtype of the statistics; of one that is not there, anything."""
    if vector is None:
        return statistics.new_empty(statistics.shape[1]) if wanted else None
    return vector.to(statistics.dtype)


def _format(dimensions: int, rows: bool) -> torch.memory_format:
    return CHANNELS_LAST[dimensions] if rows else torch.contiguous_format


forward, backward = OPERATORS = operators.define("triton", _Kernels(), None)
