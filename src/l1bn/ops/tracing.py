"""Whether somebody looks on: a compiler, a functorch transform, forward-mode differentiation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed(x: Tensor) -> bool:
    """Whether ``x`` must pass through traceable operations instead of an opaque kernel."""
    return (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or not (type(x) is Tensor or type(x) is torch.nn.Parameter)
    )
