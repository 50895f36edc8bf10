"""A plain copy, and forward + backward of norm (+ addition) + ReLU."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.scale import Run, Scale
from benchmarks.gpu.timing import Rows, environment, in_turn, spread


def measure_copy(run: Run) -> None:
    """Bandwidth of a plain copy, bytes read and written [GB/s]."""
    import torch

    scale = run.scale
    source = torch.ones(scale.copy_elements, device=scale.device)
    target = torch.empty_like(source)
    samples = in_turn({"copy": lambda: target.copy_(source)}, scale.rounds, scale.device)["copy"]
    gigabytes = 2 * source.numel() * 4 / 1e9
    rows = Rows(run.out / "copy.csv", environment())
    rows.add(gigabytes_per_second=round(gigabytes / (spread(samples)["ms"] / 1e3), 1))


def step_of(forward: Callable[..., Any], leaves: list[Any], grad: Any) -> Callable[[], object]:
    """Forward and backward as one call."""

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        forward(*leaves).backward(grad)

    return step


def operator_calls(
    shape: tuple[int, ...], dtype: Any, last: bool, added: bool, scale: Scale
) -> Any:
    """The variants of one shape, and what the kernels must move at least [bytes]."""
    import torch
    import torch.nn.functional as F

    from l1bn.functional import l1_batch_norm

    def tensor() -> Any:
        v = torch.randn(shape, device=scale.device, dtype=dtype)
        return v.contiguous(memory_format=torch.channels_last) if last else v

    x = tensor().requires_grad_()
    weight = torch.rand(shape[1], device=scale.device).add(0.5).requires_grad_()
    bias = torch.zeros(shape[1], device=scale.device).requires_grad_()
    leaves = [x, weight, bias, *([tensor().requires_grad_()] if added else [])]
    grad = tensor()
    state = [torch.zeros(shape[1], device=scale.device), torch.ones(shape[1], device=scale.device)]

    def rival(x: Any, weight: Any, bias: Any, residual: Any = None) -> Any:
        y = F.batch_norm(x, *state, weight, bias, True)
        return F.relu(y if residual is None else y + residual, inplace=True)

    def ours(x: Any, weight: Any, bias: Any, residual: Any = None) -> Any:
        return l1_batch_norm(
            x, *state, weight, bias, True, activation="relu", residual=residual, backend="triton"
        )

    calls = {"BN": step_of(rival, leaves, grad), "L1BN": step_of(ours, leaves, grad)}
    if scale.compiled:
        calls["BN compiled"] = step_of(torch.compile(rival), leaves, grad)
        calls["L1BN compiled"] = step_of(torch.compile(ours), leaves, grad)
    # Forward reads x once and writes y; backward reads y, the gradient and a bit and writes dx.
    floor = x.numel() * ((5 + 2 * added) * x.element_size() + 0.25)
    return calls, floor


def measure_operators(run: Run) -> None:
    """Forward + backward of norm (+ addition) + ReLU."""
    import torch

    scale = run.scale
    rows = Rows(run.out / "operators.csv", environment())
    for shape, dtype, last, added in scale.operators:
        calls, floor = operator_calls(shape, getattr(torch, dtype), last, added, scale)
        times = in_turn(calls, scale.rounds, scale.device)
        base = statistics.median(times["BN"])
        for name, samples in times.items():
            found = spread(samples)
            rows.add(
                shape="x".join(map(str, shape)), dtype=dtype, channels_last=last, residual=added,
                variant=name, **found, times_bn=round(base / found["ms"], 3),
                floor_gigabytes_per_second=round(floor / found["ms"] / 1e6, 1),
            )  # fmt: skip
