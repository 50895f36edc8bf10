"""Train small layers by every GPU kernel once: what `compute-sanitizer` watches.

    compute-sanitizer --tool memcheck python benchmarks/gpu/small_step.py

Layers that one launch does and layers that several do, in both orders of memory, of which the sizes
are no multiples of a tile; with the input saved, and with the output in its place.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from l1bn.functional import Branch, l1_batch_norm, l1_batch_norm_pair
from l1bn.ops.triton import plan

#: One launch; several.
SHAPES = ((3, 5, 7, 9), (5, 67, 61, 59))
TINY_SHAPES = ((3, 2, 3, 3), (4, 3, 6, 6))


def layer(shape: tuple[int, ...], dtype: torch.dtype, last: bool, device: str) -> None:
    """Two steps of each kind of layer: the second one knows what it may leave away."""

    def tensor() -> Tensor:
        v = torch.randn(shape, dtype=dtype, device=device)
        return v.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    def vectors() -> list[Any]:
        state = torch.zeros(shape[1], device=device), torch.ones(shape[1], device=device)
        return [
            *state,
            torch.full_like(state[1], 20.0).requires_grad_(),
            torch.zeros_like(state[0]),
        ]

    first, second = vectors(), vectors()
    for _ in range(2):
        x, added = tensor().requires_grad_(), tensor().requires_grad_()
        for activation, residual in (
            (None, None),
            ("relu", None),
            ("relu", added),
            ("gelu", added),
        ):
            y = l1_batch_norm(
                x, *first, True, activation=activation, residual=residual, backend="triton"
            )
            y.backward(torch.ones_like(y))
        branches = (Branch(v, *s, True, 0.1, 1e-5) for v, s in ((x, first), (added, second)))
        y = l1_batch_norm_pair(*branches, "relu", backend="triton")
        y.backward(torch.ones_like(y))
        if device == "cuda":
            torch.cuda.synchronize()
        assert all(torch.isfinite(v.grad).all() for v in (x, added, first[2], second[2]))


def main() -> int:
    """Run every kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="on a CPU, interpreted")
    tiny = parser.parse_args().tiny
    if tiny:  # several launches on shapes small enough for the interpreter
        plan.SINGLE, plan.TILE, plan.MOST_SPLITS = 128, 64, 2
    for shape in TINY_SHAPES if tiny else SHAPES:
        for dtype in (torch.float32,) if tiny else (torch.float32, torch.bfloat16):
            for last in (False, True):
                layer(shape, dtype, last, "cpu" if tiny else "cuda")
    print("every gradient is finite")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
