"""The ``triton`` backend: GPU kernels that keep y and one bit per element, as ``cpu`` does.

With an activation, backward needs the output y (which the next layer keeps anyway) and one sign
bit per element; where x̂ cannot be recovered from y (``l1bn.ops.recovery``), and without an
activation, x is kept. ``torch.compile`` sees operators; transforms and second derivatives take the
eager formula.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from l1bn.activation import DESCRIPTIONS, Activation
from l1bn.ops import frozen
from l1bn.ops.records import Branch, Call, Running
from l1bn.ops.running import update_running_statistics
from l1bn.ops.triton import operators
from l1bn.ops.triton.pair import operators as pair_operators

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

#: Values per channel that an integer of 32 bits counts.
_MOST = 2**31 - 1


class Triton:
    """Serves dense and strided GPU tensors; CPU tensors in Triton's interpreter."""

    name = "triton"
    #: ``torch.compile`` sees operators, see :class:`l1bn.ops.registry.Registry`.
    compiles = True
    activations = frozenset(DESCRIPTIONS)

    def __init__(self) -> None:
        self._interpreted = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
        self._missing = find_spec("triton") is None

    def unavailable(self) -> str | None:
        """Why the kernels cannot run on this machine, or None."""
        if self._missing:
            return "triton is not installed: pip install triton, or a torch built for GPUs"
        if not self._interpreted and not torch.cuda.is_available():
            return "torch sees no GPU here"
        return None

    def unsupported(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None
    ) -> str | None:
        """Why these tensors cannot be served, or None."""
        if not (x.is_cuda or (self._interpreted and x.is_cpu)):
            return f"it takes GPU tensors, got {x.device}"
        if x.layout is not torch.strided:
            return f"it takes strided tensors, got {x.layout}"
        for value in (x, weight, bias):
            if value is not None and value.dtype not in _DTYPES:
                return f"it takes {', '.join(str(d)[6:] for d in _DTYPES)}, got {value.dtype}"
        if x.numel() // x.shape[1] > _MOST:
            return f"it takes at most {_MOST} values per channel, got {tuple(x.shape)}"
        return None

    def train(
        self, x: Tensor, residual: Tensor | None, call: Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize with batch statistics, see ``l1bn.ops.registry.Backend``."""
        if torch.compiler.is_compiling():
            # On a GPU the step before tells, by γ, whether x̂ can be recovered.
            told = x.is_cpu or call.weight is not None
            return operators.OPERATORS.train(x, residual, call, told)
        from l1bn.ops.triton.autograd import train

        out: list[Tensor] = []
        y = train(x, residual, call, out=out)
        return y, out[0][0] + out[0][1], out[0][2]

    def train_and_update(
        self, x: Tensor, residual: Tensor | None, call: Call, running: Running
    ) -> Tensor:
        """Normalize and move the running statistics, see ``l1bn.ops.registry.Backend``."""
        if torch.compiler.is_compiling() or not _is_dense(running):
            y, mean, scale = self.train(x, residual, call)
            update_running_statistics(running, mean, scale, x.numel() // x.shape[1], call.eps)
            return y
        from l1bn.ops.triton.autograd import train

        return train(x, residual, call, running)

    def train_pair(self, first: Branch, second: Branch, activation: Activation) -> Tensor | None:
        """Normalize and add two branches, see ``l1bn.ops.registry.PairBackend``."""
        calls = (
            Call(first.weight, first.bias, activation, first.eps),
            Call(second.weight, second.bias, None, second.eps),
        )
        running = _running(first), _running(second)
        if torch.compiler.is_compiling():
            told = first.input.is_cpu or first.weight is not None
            y, statistics = pair_operators.train(first.input, second.input, calls, told)
            count = y.numel() // y.shape[1]
            for i, state in enumerate(running):
                if state is not None:
                    mean, scale = statistics[i, 0], statistics[i, 2]
                    update_running_statistics(state, mean, scale, count, calls[i].eps)
            return y
        if not all(v is None or _is_dense(v) for v in running):
            return None
        from l1bn.ops.triton.pair.node import train_pair

        return train_pair(first, second, calls, running)

    def evaluate(self, x: Tensor, residual: Tensor | None, call: Call, running: Running) -> Tensor:
        """Normalize with running statistics: torch's own kernels, exactly ``F.batch_norm``."""
        return frozen.composed(x, residual, call, running)


def _is_dense(running: Running) -> bool:
    """Whether the kernels can move these statistics."""
    return running.mean.is_contiguous() and running.var.is_contiguous()


def _running(branch: Branch) -> Running | None:
    mean, var = branch.running_mean, branch.running_var
    return None if mean is None or var is None else Running(mean, var, branch.momentum)


BACKEND = Triton()
