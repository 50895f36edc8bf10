"""Bytes that a launch of a GPU kernel loads and stores, from its arguments alone.

Counted by hand, pass by pass; `tests/ops/triton/interpreted_traffic.py` holds every kernel's count
to the loads and stores that Triton's interpreter makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from l1bn.activation import Activation, clips
from l1bn.ops.records import Call, Running
from l1bn.ops.triton import launch
from l1bn.ops.triton.pair import launch as pair_launch

#: The modules that launch kernels, which each names its own.
LAUNCHERS = launch, pair_launch
KERNELS: dict[str, Any] = {
    name: kernel
    for module in LAUNCHERS
    for name, kernel in vars(module).items()
    if name.endswith("_kernel")
}
#: How often a kernel goes over each tensor of the input's size.
PASSES: dict[str, dict[str, int]] = {
    "sum_kernel": {"x": 1},
    "deviation_kernel": {"x": 1},
    "normalize_kernel": {"x": 1, "residual": 1, "y": 1, "bits": 1},
    "forward_kernel": {"x": 3, "residual": 1, "y": 1, "bits": 1},
    "reduce_kernel": {"grad": 1, "y": 1, "x": 1, "residual": 1},
    "gradient_kernel": {"grad": 1, "y": 1, "x": 1, "residual": 1, "bits": 1, "dx": 1,
                        "dresidual": 1},
    "backward_kernel": {"grad": 2, "y": 2, "x": 2, "residual": 2, "bits": 1, "dx": 1,
                        "dresidual": 1},
    "pair_sum_kernel": {"a": 1, "b": 1},
    "pair_deviation_kernel": {"a": 1, "b": 1},
    "pair_normalize_kernel": {"a": 1, "b": 1, "y": 1, "bits": 1, "other_bits": 1},
    "pair_forward_kernel": {"a": 3, "b": 3, "y": 1, "bits": 1, "other_bits": 1},
    "pair_reduce_kernel": {"grad": 1, "y": 1, "a": 1, "b": 1},
    "pair_gradient_kernel": {"grad": 1, "y": 1, "bits": 1, "other_bits": 1, "dx": 1,
                             "other_dx": 1},
    "pair_backward_kernel": {"grad": 2, "y": 2, "a": 1, "b": 1, "bits": 1, "other_bits": 1,
                             "dx": 1, "other_dx": 1},
}  # fmt: skip
#: Passes over a tensor where the first pass alone reads it, because bits serve the second one.
RECOVERED = {
    "gradient_kernel": {"residual": 0},
    "backward_kernel": {"residual": 1},
}
#: Sets of partial sums that every program of a channel loads, that the last one loads, and that
#: every one stores.
PARTIALS = {
    "sum_kernel": (0, 0, 1),
    "deviation_kernel": (1, 3, 3),
    "reduce_kernel": (0, 2, 2),
    "pair_sum_kernel": (0, 0, 2),
    "pair_deviation_kernel": (2, 6, 6),
    "pair_reduce_kernel": (0, 3, 3),
}


@dataclass
class Launch:
    """One launch: the kernel's name and its arguments by name."""

    kernel: str
    arguments: dict[str, Any]


@contextmanager
def recorded(
    then: Callable[[Launch, Callable[[], None]], None] | None = None,
) -> Iterator[list[Launch]]:
    """Collect launches: in the place of running them, or handing each to ``then`` with its run."""
    launches: list[Launch] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, KERNELS[name]

        def __getitem__(self, grid: object) -> Callable[..., None]:
            def start(**arguments: Any) -> None:
                launches.append(Launch(self.name, arguments))
                if then is not None:
                    then(launches[-1], lambda: self.kernel[grid](**arguments))

            return start

    with ExitStack() as stack:
        for module in LAUNCHERS:
            recorders: dict[str, Any] = {n: Recorder(n) for n in KERNELS if hasattr(module, n)}
            stack.enter_context(mock.patch.multiple(module, **recorders))
        yield launches


def bytes_of(one: Launch) -> int:
    """Bytes that a launch loads and stores, but for those of vectors that are no partial sums."""
    found = one.arguments
    passes = dict(PASSES[one.kernel])
    if found.get("RECOVERED"):
        # The second pass needs what the activation passes, not x̂.
        passes |= RECOVERED.get(one.kernel, {})
    total = sum(
        times * found[name].numel() * found[name].element_size()
        for name, times in passes.items()
        if isinstance(found.get(name), Tensor)
    )
    every, last, stores = PARTIALS.get(one.kernel, (0, 0, 0))
    if stores:
        splits, channels = found["SPLITS"], found["channels"]
        size = found["partials"].element_size()
        total += (every * splits + last + stores) * splits * channels * size
    return total


@dataclass(frozen=True)
class Case:
    """A layer: shape, dtype, whether the channels lie last, activation, what is added.

    ``joined`` is of a second input that is normalized as well.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    last: bool
    activation: Activation | None
    residual: bool
    joined: bool = False


def saved(kept: launch.Kept, activation: Activation | None, keep_x: bool) -> launch.Kept:
    """What training leaves of it for backward."""
    bends = activation is not None and not clips(activation)
    return kept._replace(
        x=kept.x if keep_x else None,
        y=None if activation is None or (keep_x and bends) else kept.y,
        residual=kept.residual if bends or not keep_x else None,
    )


def launches_of(case: Case, keep_x: bool) -> tuple[list[Launch], list[Launch]]:
    """What training forward and what backward launch for a layer, without running it."""

    def tensor() -> Tensor:
        v = torch.empty(case.shape, dtype=case.dtype, device="meta")
        return v.contiguous(memory_format=torch.channels_last) if case.last else v

    def vector() -> Tensor:
        return torch.empty(case.shape[1], device="meta")

    bits = not keep_x
    worst = torch.empty(1, dtype=torch.int32, device="meta") if bits else None
    call = Call(vector(), vector(), case.activation, 1e-5)
    running = Running(vector(), vector(), 0.1)
    if case.joined:
        calls = call, Call(vector(), vector(), None, 1e-5)
        with recorded() as forward:
            states = running, Running(vector(), vector(), 0.1)
            _, joined = pair_launch.forward(
                tensor(), tensor(), calls, states, keep_bits=True, worst=worst
            )
        with recorded() as backward:
            joined = joined._replace(a=joined.a if keep_x else None)
            pair_launch.backward(tensor(), joined, calls, (True,) * 6)
        return forward, backward
    x, residual = tensor(), tensor() if case.residual else None
    with recorded() as forward:
        _, kept = launch.forward(x, residual, call, running, bits, worst)
    kept = saved(kept, case.activation, keep_x)
    with recorded() as backward:
        launch.backward(tensor(), kept, call, (True, True, True, case.residual))
    return forward, backward
