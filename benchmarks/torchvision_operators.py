"""Declare torchvision's two operators that it needs to be imported beside a CPU build of torch.

Its wheel holds them compiled for CUDA builds only. transformers and timm import torchvision where
it is installed. Import this module before them.
"""

from __future__ import annotations

import contextlib

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

for _name in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):  # declared already
        torch.library.define(f"torchvision::{_name}", _SIGNATURE)
