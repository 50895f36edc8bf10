"""Whether a layer may keep its output instead of its input, decided without waiting for the device.

x̂ is recovered from y with an error that grows with r = (|β| + max|residual|)/|γ|. The cpu backend
looks at r after forward and keeps x where it is too large; on a GPU that look would be a
synchronisation. So forward leaves the largest r of its channels on the device, a copy to pinned
host memory follows it in the stream, and the *next* forward of the same γ reads what has arrived.

* Without an answer (the first steps, γ replaced, a copy still under way after all) x is kept.
* y is kept only where r was at most a quarter of the cpu backend's limit: one step of an optimizer
  does not multiply r by four.
* Should r exceed the limit in that very step all the same (parameters written by hand, say),
  gradients of that step are as exact as r allows, and the next forward warns and keeps x.

On a CPU, where the interpreter runs, there is nothing to wait for: r is looked at after forward.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from l1bn.ops.tracing import is_recomputed

#: Largest r for which x̂ may be recovered: by dtype, as the cpu backend has it.
LIMIT = {
    torch.float32: 16.0,
    torch.float64: 16.0,
    torch.bfloat16: 4.0,
    torch.float16: 4.0,
}
#: How far below the limit r has to lie for the next step.
MARGIN = 0.25


@dataclass
class _Watched:
    """What is known of one γ."""

    host: Tensor
    event: torch.cuda.Event | None
    #: The largest r that has arrived, or None.
    ratio: float | None = None
    #: Whether the step under way keeps y.
    keeps_output: bool = False
    pending: bool = False


#: The memory of a γ. A compiled graph calls with tensors of its own on the same memory.
_Memory = tuple[StorageWeakRef, int | torch.SymInt]


def _memory(weight: Tensor) -> _Memory:
    return StorageWeakRef(weight.untyped_storage()), weight.storage_offset()


class Recovery:
    """Largest r of each γ seen, as far as it has arrived on the host."""

    def __init__(self) -> None:
        self._watched: dict[_Memory, _Watched] = {}
        self._purge_at = 256

    def may_keep_output(self, weight: Tensor, dtype: torch.dtype) -> bool:
        """Whether the coming forward of ``weight`` may keep y instead of x."""
        watched = self._watched.get(_memory(weight))
        if watched is None:
            return False
        if is_recomputed():  # a checkpoint: it must save what it saved the first time
            return watched.keeps_output
        self._arrive(watched, LIMIT[dtype])
        watched.keeps_output = watched.ratio is not None and watched.ratio <= MARGIN * LIMIT[dtype]
        return watched.keeps_output

    def note(self, weight: Tensor, worst: Tensor) -> None:
        """Send r of the forward just launched to the host; it is there for a later step."""
        if is_recomputed():
            return
        place = _memory(weight)
        watched = self._watched.get(place)
        if watched is None:
            self._forget()
            watched = self._watched[place] = self._watch(worst)
        watched.host.copy_(worst, non_blocking=True)
        watched.pending = True
        if watched.event is not None and not torch.cuda.is_current_stream_capturing():
            watched.event.record()

    def _forget(self) -> None:
        """Drop what is known of freed memory, now and then."""
        if len(self._watched) >= self._purge_at:
            self._watched = {k: v for k, v in self._watched.items() if not k[0].expired()}
            self._purge_at = 2 * len(self._watched) + 256

    @staticmethod
    def _watch(worst: Tensor) -> _Watched:
        pinned = worst.is_cuda
        host = torch.empty(1, dtype=torch.int32, pin_memory=pinned)
        return _Watched(host, torch.cuda.Event() if pinned else None)

    @staticmethod
    def _arrive(watched: _Watched, limit: float) -> None:
        """Take what the device has sent, if it is there; never wait for it."""
        if not watched.pending:
            return
        # An event cannot be asked while a graph is recorded; what was known then stays.
        if watched.event is not None and (
            torch.cuda.is_current_stream_capturing() or not watched.event.query()
        ):
            return
        watched.pending = False
        watched.ratio = float(watched.host.view(torch.float32)[0])
        if watched.keeps_output and watched.ratio > limit:
            warnings.warn(
                f"expected (|beta| + max|residual|)/|gamma| of at most {limit:g} where an L1BN "
                f"layer keeps its output, got {watched.ratio:.3g} in the step before: the gradient "
                "of its gamma was inexact in that step; its input is kept from now on",
                RuntimeWarning,
                stacklevel=2,
            )


recovery = Recovery()
