"""The largest batch that a training step fits in, on a card of so much memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from benchmarks.gpu.parts.networks import network
from benchmarks.gpu.scale import Run, Scale
from benchmarks.gpu.timing import Rows, environment


def largest(fits: Callable[[int], bool], step: int) -> int:
    """The largest multiple of ``step`` that fits, by doubling and halving; 0 where none does."""
    low, high = 0, step
    while fits(high):
        low, high = high, 2 * high
    while high - low > step:
        middle = (low + high) // 2 // step * step
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def trainer(name: str, size: int, convert: bool, scale: Scale) -> Callable[[int], None]:
    """A training step of a network on so many images.

    A few steps on two images come first: L1BN saves its input until it knows, from the step before,
    that it need not.
    """
    import torch

    import l1bn

    torch.manual_seed(0)
    model = network(name).to(scale.device, memory_format=torch.channels_last).train()
    if convert:
        l1bn.convert_(model, example=torch.randn(2, 3, size, size, device=scale.device))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step(batch: int) -> None:
        images = torch.randn(batch, 3, size, size, device=scale.device)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.zeros(batch, dtype=torch.int64, device=scale.device)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(scale.device, torch.bfloat16):
            loss = model(images, labels=labels).loss
        loss.backward()
        optimizer.step()
        if scale.device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        step(2)
    return step


def fits_allocator(step: Callable[[int], None]) -> Callable[[int], bool]:
    """Whether the allocator finds the memory; set a limit first."""
    import torch

    def fits(batch: int) -> bool:
        try:
            step(batch)
        except torch.cuda.OutOfMemoryError:
            found = False
        else:
            found = True
        gc.collect()
        torch.cuda.empty_cache()
        return found

    return fits


def fits_saved(step: Callable[[int], None], limit: int) -> Callable[[int], bool]:
    """Whether what forward saves for backward fits in so many bytes: where nothing else tells."""
    import torch

    def fits(batch: int) -> bool:
        saved: dict[int, int] = {}

        def pack(v: Any) -> Any:
            storage = v.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return v

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
            step(batch)
        return sum(saved.values()) <= limit

    return fits


def measure_batch(run: Run) -> None:
    """Search for each network, with BatchNorm and converted."""
    import torch

    scale = run.scale
    rows = Rows(run.out / "batch.csv", environment())
    gpu = scale.device == "cuda"
    limit = scale.memory_mib * 2**20
    if gpu:
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole))
    try:
        for name, size in scale.batches:
            base = 0
            for variant in ("BN", "L1BN"):
                step = trainer(name, size, variant == "L1BN", scale)
                fits = fits_allocator(step) if gpu else fits_saved(step, limit)
                found = largest(fits, scale.batch_step)
                base = base or found
                rows.add(
                    network=name, size=size, variant=variant, largest_batch=found,
                    times_bn=round(found / base, 3) if base else None, memory_mib=scale.memory_mib,
                    held_to="allocator" if gpu else "saved tensors",
                )  # fmt: skip
    finally:
        if gpu:
            torch.cuda.set_per_process_memory_fraction(1.0)
