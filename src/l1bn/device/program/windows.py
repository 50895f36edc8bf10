"""Sizes of the layers: what goes in, what comes out, and the window between them."""

from __future__ import annotations

from dataclasses import replace

import torch

from l1bn.device.program.steps import Window
from l1bn.quantized.layers import Window as Pooled
from l1bn.quantized.layers.product import Product


def plain_window(before: torch.Size, after: torch.Size) -> Window:
    """Return the sizes of a layer without a window."""
    height, width = before[2:] if len(before) == 4 else (1, 1)
    out_height, out_width = after[2:] if len(after) == 4 else (1, 1)
    return Window(height, width, before[1], out_height, out_width, after[1])


def product_window(product: Product, before: torch.Size, after: torch.Size) -> Window:
    """Return the sizes of a convolution or linear layer."""
    kh, kw = product.weight.weight.shape[2:]
    geometry = product.geometry
    return replace(
        plain_window(before, after),
        kernel_height=kh,
        kernel_width=kw,
        stride_y=geometry.stride[0],
        stride_x=geometry.stride[1],
        top=geometry.padding[0],
        left=geometry.padding[2],
        dilation_y=geometry.dilation[0],
        dilation_x=geometry.dilation[1],
        groups=geometry.groups,
    )


def pool_window(pooled: Pooled, before: torch.Size, after: torch.Size) -> Window:
    """Return the sizes of a pooling."""
    return replace(
        plain_window(before, after),
        kernel_height=pooled.kernel[0],
        kernel_width=pooled.kernel[1],
        stride_y=pooled.stride[0],
        stride_x=pooled.stride[1],
        top=pooled.padding[0],
        left=pooled.padding[1],
        dilation_y=pooled.dilation[0],
        dilation_x=pooled.dilation[1],
    )


def tiled_window(sides: tuple[int, int], before: torch.Size, after: torch.Size) -> Window:
    """Return the sizes of windows that touch and do not overlap."""
    height, width = sides
    return replace(
        plain_window(before, after),
        kernel_height=height,
        kernel_width=width,
        stride_y=height,
        stride_x=width,
    )
