"""The processes that train one model together, on ``torch.distributed``.

Every process runs the same program: it draws the same plan, takes its part of each batch, and
reaches the same decisions, for what decides is summed over all. The first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from l1bn.errors import SharedError, UserError
from l1bn.recipes.machine.launch import is_launched

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Processes:
    """A process among those that train together; alone by default.

    Attributes:
        rank: Which one this is.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Return the processes of the default group, or this one alone."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def part(self, size: int) -> slice:
        """Return this process' part of so many things; parts differ by one at most."""
        least, more = divmod(size, self.count)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))

    def sum(self, *values: float) -> list[float]:
        """Return each value summed over all processes."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set in any process; all give the same answer."""
        return self.sum(flag) != [0]

    def check_batch(self, images: int) -> None:
        """Refuse a batch of which a process would get nothing.

        Args:
            images: Images in the whole batch.

        Raises:
            UserError: If there are fewer images than processes.
        """
        if images < self.count:
            raise UserError(
                f"expected --batch-size of at least {self.count}, an image for each process, got "
                f"{images}"
            )

    def together(self, work: Callable[[], _Result]) -> _Result:
        """Do in each process what may fail in one, so that all go on or none.

        Args:
            work: It must not wait for other processes.

        Raises:
            UserError: This process' own mistake, or as a ``SharedError`` that of another one.
        """
        mistake: UserError | None = None
        try:
            result = work()
        except UserError as error:
            mistake = error
        if self.count > 1:
            found: list[str | None] = [None] * self.count
            dist.all_gather_object(found, mistake and str(mistake))
            rank = next((r for r, text in enumerate(found) if text is not None), None)
            if rank is not None and rank != self.rank:
                raise SharedError(str(found[rank])) from mistake
        if mistake is not None:
            raise mistake
        return result

    def from_first(self, work: Callable[[], _Result]) -> _Result:
        """Do something in the first process only; return its result in all.

        Raises:
            UserError: The first process' mistake.
        """
        result = [self.together(work if self.first else lambda: None)]
        if self.count > 1:
            dist.broadcast_object_list(result)
        return result[0]  # type: ignore[return-value]

    def first_then_others(self, work: Callable[[], _Result]) -> _Result:
        """Do something in every process, in the first one before: it leaves what others read.

        Raises:
            UserError: As ``together``.
        """
        if self.first:
            result = self.together(work)
            self.together(lambda: None)
            return result
        self.together(lambda: None)
        return self.together(work)

    def share_buffers(self, model: nn.Module) -> None:
        """Take the buffers of the first process, as DistributedDataParallel does in training."""
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, for as long as the block lasts.

    A group that is there already is used, and left as it is.

    Args:
        device: The option ``--device``; with ``auto`` or ``cuda`` each process has its own GPU.
    """
    ours = is_launched() and dist.is_available() and not dist.is_initialized()
    if ours:
        if device in ("auto", "cuda") and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # Numbers and objects travel between CPUs, gradients between GPUs where there are any.
        dist.init_process_group()
    try:
        yield Processes.current()
    finally:
        if ours:
            dist.destroy_process_group()
