"""Whether somebody looks on: a compiler, a transform, a dispatch mode, forward differentiation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad


def is_transformed(x: Tensor) -> bool:
    """Whether ``x`` must pass through traceable operations instead of an opaque kernel."""
    return (
        torch.compiler.is_compiling()
        or _functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0  # sees every operator, or makes fake tensors
        or forward_ad._current_level >= 0
        or not (type(x) is Tensor or type(x) is torch.nn.Parameter)
        or _functorch.is_functorch_wrapped_tensor(x)  # left over from a transform that has ended
        or _functorch.is_legacy_batchedtensor(x)  # of is_grads_batched
        or is_traced()
    )


def is_looked_at(grad: Tensor) -> bool:
    """Whether backward has to be made of operations that are seen or differentiated."""
    return torch.is_grad_enabled() or is_transformed(grad)


def is_compiled(x: Tensor) -> bool:
    """Whether ``torch.compile`` and nothing else looks on: operators may stand for kernels.

    What is exported is to run where this package is not, and a transform has no rule for them.
    """
    return (
        torch.compiler.is_dynamo_compiling()
        and not is_exporting()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and (type(x) is Tensor or type(x) is torch.nn.Parameter)
    )


def is_exporting() -> bool:
    """Whether ``torch.export`` looks on.

    Not ``torch.compiler.is_exporting``, which up to torch 2.10 is true in all that is compiled.
    """
    return torch.compiler._is_exporting_flag


def is_traced() -> bool:
    """Whether ``torch.jit.trace`` records: it must see every operation, and sizes are tensors."""
    return torch._C._get_tracing_state() is not None


def is_recomputed() -> bool:
    """Whether the call stands inside a backward pass, as where a checkpoint is computed again."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
