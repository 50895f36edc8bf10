"""Compile the GPU kernels for common layers ahead of a run: Triton keeps them on disk."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from rich.console import Console

from l1bn.activation import Activation
from l1bn.functional import l1_batch_norm
from l1bn.ops.registry import registry

#: Channels and edge of the layers of ResNet-18 and ResNet-50: with ReLU, with ReLU after an
#: addition, and in shortcuts with neither.
_RELU = ((64, 112), (64, 56), (128, 56), (128, 28), (256, 28), (256, 14), (512, 14), (512, 7))
_ENDS = ((256, 56), (128, 28), (512, 28), (256, 14), (1024, 14), (512, 7), (2048, 7))
_ADDITION = ((64, 56), *_ENDS)


class Layer(NamedTuple):
    """Shape of a layer's input, dtype, memory format, activation, whether something is added."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    format: torch.memory_format
    activation: Activation | None
    residual: bool


def layers(batch: int) -> list[Layer]:
    """Those of ResNets at a batch size, in bfloat16 channels_last and float32 NCHW."""
    formats = ((torch.bfloat16, torch.channels_last), (torch.float32, torch.contiguous_format))
    kinds = (_RELU, "relu", False), (_ADDITION, "relu", True), (_ENDS, None, False)
    return [
        Layer((batch, channels, edge, edge), *way, activation, residual)
        for sizes, activation, residual in kinds
        for channels, edge in sizes
        for way in formats
    ]


def warm(batch: int) -> None:
    """Compile for ResNets' layers at a batch size, and say how long it took."""
    console = Console(highlight=False)
    reason = registry.get("triton").unavailable()
    if reason is not None:
        console.print(f"\nno GPU kernels to compile: {reason}")
        return
    start = time.monotonic()
    found = layers(batch)
    compile_for(found, "cuda" if torch.cuda.is_available() else "cpu")
    seconds = time.monotonic() - start
    console.print(f"\nGPU kernels compiled for {len(found)} layers of ResNets in {seconds:.0f} s")


def compile_for(found: Sequence[Layer], device: str) -> None:
    """Train each layer for two steps: one that saves its input, and one that saves its output."""
    for layer in found:
        channels = layer.shape[1]
        x = torch.randn(layer.shape, device=device, dtype=layer.dtype)
        x = x.contiguous(memory_format=layer.format).requires_grad_()
        # Small beside γ, so that the output may stand for the input.
        residual = torch.zeros_like(x).requires_grad_() if layer.residual else None
        weight = torch.ones(channels, device=device, requires_grad=True)
        bias = torch.zeros(channels, device=device, requires_grad=True)
        state = torch.zeros(channels, device=device), torch.ones(channels, device=device)
        for _ in range(2):
            y = l1_batch_norm(
                x, *state, weight, bias, True,
                activation=layer.activation, residual=residual, backend="triton",
            )  # fmt: skip
            y.backward(torch.ones_like(y))
            if device == "cuda":
                torch.cuda.synchronize()  # the second step knows from the first what to save
