"""What a call of a layer costs where there is nothing to compute: 16 values, one thread.

    python -m benchmarks.cpu.call

Writes ``results/cpu_call.csv`` and its environment. Processor time of the thread, which other
programs leave alone. Each call of L1BN is timed with the compiled autograd node (``l1bn build``)
and without. The floor is an autograd function written in Python that only allocates its output:
nothing that is not compiled can cost less.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable
from contextlib import nullcontext
from time import thread_time
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import l1bn
from benchmarks.harness import interleave, quartiles, refuse_on_red, write
from l1bn.ops.cpu.backend import BACKEND
from l1bn.ops.registry import registry

#: What calls nothing of L1BN.
RIVALS = {"nn.BatchNorm2d", "F.batch_norm", "block of BatchNorm2d and ReLU", "floor"}
CALLS = 100
ROUNDS = 60


class Nothing(torch.autograd.Function):
    """The floor: allocates the output, hands its inputs back as gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(x, weight, bias)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        _, weight, bias = ctx.saved_tensors
        return grad, weight, bias


class Written(nn.Module):
    """A block that calls the layer with its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = l1bn.L1BatchNormAct2d(2)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.norm(x)


class Block(nn.Module):
    """The same as most networks have it, for ``convert_`` to make one call of."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(2), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.relu(self.norm(x))


def fused() -> nn.Module:
    """A block whose two calls ``convert_`` has made one."""
    block = Block()
    if len(l1bn.convert_(block).fused) != 1:
        raise SystemExit("the block was not fused: nothing to measure")
    return block


def cases() -> dict[str, tuple[Callable[[Tensor], Tensor], list[Tensor]]]:
    """What is called, and its parameters."""
    plain, ours = nn.BatchNorm2d(2), l1bn.L1BatchNorm2d(2)
    written, block, unfused = Written(), fused(), Block()
    l1bn.convert_(unfused, fuse=False)
    rival = Block()

    def function(call: Callable[..., Tensor], layer: Any) -> Callable[[Tensor], Tensor]:
        mean, var, weight, bias = layer.running_mean, layer.running_var, layer.weight, layer.bias
        return lambda x: call(x, mean, var, weight, bias, True, 0.1, 1e-5)

    def nothing(x: Tensor) -> Tensor:
        return Nothing.apply(x, plain.weight, plain.bias)

    return {
        "nn.BatchNorm2d": (plain, list(plain.parameters())),
        "L1BatchNorm2d": (ours, list(ours.parameters())),
        "F.batch_norm": (function(F.batch_norm, plain), list(plain.parameters())),
        "l1_batch_norm": (function(l1bn.l1_batch_norm, ours), list(ours.parameters())),
        "block of L1BatchNormAct2d": (written, list(written.parameters())),
        "block, fused by convert_": (block, list(block.parameters())),
        "block, not fused": (unfused, list(unfused.parameters())),
        "block of BatchNorm2d and ReLU": (rival, list(rival.parameters())),
        "floor": (nothing, list(plain.parameters())),
    }


def timed(call: Callable[[Tensor], Tensor], leaves: list[Tensor], compiled: bool) -> list[float]:
    """Seconds of a call, and of one with its backward pass; ``leaves`` begins with the input."""
    x, grad = leaves[0], torch.ones_like(leaves[0])

    def both() -> None:
        for leaf in leaves:
            leaf.grad = None
        call(x).backward(grad)

    with nullcontext() if compiled else patch.object(registry, "quick", lambda _: None):
        runs = (lambda: call(x)), both
        return [timeit.timeit(run, timer=thread_time, number=CALLS) / CALLS for run in runs]


def main() -> None:
    refuse_on_red("tests/nn/test_batchnorm.py", "tests/ops/cpu/test_node.py")
    missing = BACKEND.missing_node()
    if missing:
        raise SystemExit(f"expected the compiled autograd node: {missing}")
    torch.set_num_threads(1)
    x = torch.randn(2, 2, 2, 2, requires_grad=True)
    variants = {
        (name, node): (lambda call=call, leaves=[x, *leaves], node=node: timed(call, leaves, node))
        for name, (call, leaves) in cases().items()
        for node in ((True,) if name in RIVALS else (True, False))
    }
    rows = []
    for (name, node), samples in interleave(variants, ROUNDS).items():
        row: dict[str, Any] = {"call": name, "node": "compiled" if node else "Python"}
        for i, what in enumerate(("forward", "forward_backward")):
            low, middle, _ = quartiles([s[i] for s in samples])
            row |= {f"{what}_us": round(middle * 1e6, 2), f"{what}_q1": round(low * 1e6, 2)}
        rows.append(row)
        print(row)
    print(write("cpu_call", rows))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # none, but --help
    main()
