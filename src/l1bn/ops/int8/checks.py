"""Checks of the tensors that the integer kernels take, and their addresses."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_SHIFT = 31


def require(name: str, value: Tensor, *dtypes: torch.dtype) -> None:
    """Refuse what is not a tensor of one of the dtypes."""
    if not isinstance(value, Tensor) or value.dtype not in dtypes:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        wanted = " or ".join(str(d) for d in dtypes)
        raise TypeError(f"{name}: expected a tensor of {wanted}, got {got}; quantize it first")
    if value.device.type != "cpu":
        raise ValueError(f"{name}: expected a tensor on the cpu, got {value.device}; move it")


def require_dense(name: str, value: Tensor) -> None:
    """Refuse what is not dense with channels last in memory."""
    last = torch.channels_last if value.dim() == 4 else torch.contiguous_format
    if not value.is_contiguous(memory_format=last):
        raise ValueError(
            f"{name}: expected (N, C, H, W) in torch.channels_last or contiguous (N, C), got "
            f"{tuple(value.shape)} with strides {value.stride()}; "
            "call .contiguous(memory_format=torch.channels_last)"
        )


def rows_of(name: str, value: Tensor, dtype: torch.dtype, least: int = 0) -> tuple[int, int, int]:
    """Rows, channels and threads of a tensor of rows of channels."""
    require(name, value, dtype)
    if value.dim() not in (2, 4) or value.shape[1] == 0:
        raise ValueError(f"{name}: expected (N, C, H, W) or (N, C), got {tuple(value.shape)}")
    require_dense(name, value)
    channels = value.shape[1]
    rows = value.numel() // channels
    if rows < least:
        raise ValueError(
            f"{name}: expected more than 1 value per channel when training, got "
            f"{tuple(value.shape)}; use a larger batch"
        )
    return rows, channels, torch.get_num_threads()


def like(name: str, value: Tensor | None, other: Tensor, *dtypes: torch.dtype) -> int:
    """Address of an optional tensor after checking that it has the shape of another."""
    if value is None:
        return 0
    require(name, value, *dtypes)
    if value.shape != other.shape:
        raise ValueError(
            f"{name}: expected shape {tuple(other.shape)}, got {tuple(value.shape)}; reshape it"
        )
    require_dense(name, value)
    return value.data_ptr()


def channels_of(name: str, value: Tensor, count: int, dtype: torch.dtype) -> int:
    """Address of a tensor of one number per channel."""
    require(name, value, dtype)
    if value.shape != (count,) or not value.is_contiguous():
        raise ValueError(
            f"{name}: expected a contiguous ({count},), got {tuple(value.shape)}; "
            "give one number per channel"
        )
    return value.data_ptr()


def per_channel(name: str, value: Tensor | int, count: int) -> tuple[int, int]:
    """Address of int32 numbers, one per channel, and the number that serves where it is 0."""
    if isinstance(value, int):
        return 0, value
    return channels_of(name, value, count, torch.int32), 0


def shift_of(value: Tensor | int, count: int) -> tuple[int, int]:
    """Return a shift, one for all or one per channel, as the kernels take it."""
    pair = per_channel("shift", value, count)
    low, high = (value, value) if isinstance(value, int) else map(int, value.aminmax())
    if low < 0 or high > MAX_SHIFT:
        raise ValueError(f"shift: expected 0 to {MAX_SHIFT}, got {low} to {high}; clip it")
    return pair


def bits_of(bits: int, most: int = 8) -> int:
    """Return a width that the kernels offer [bits]."""
    if not 2 <= bits <= most:
        raise ValueError(f"bits: expected 2 to {most}, got {bits}; choose another width")
    return bits
