"""Ctrl-C and SIGTERM that lose nothing."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - it is no error
    """Training stopped on request, with everything saved.

    Attributes:
        checkpoint: The file from which it continues.
        where: Epoch and step, for people.
        signum: The signal that asked for it.
    """

    def __init__(self, checkpoint: Path, where: str, signum: int = signal.SIGINT) -> None:
        super().__init__(f"stopped at {where}; saved {checkpoint}")
        self.signum = signum
        self.checkpoint = checkpoint
        self.where = where


class StopRequest:
    """Tells a loop that the user asked it to stop.

    Attributes:
        made: Whether the request was made.
        signum: The signal that made it.
    """

    def __init__(self) -> None:
        self.made = False
        self.signum: int = signal.SIGINT

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Note the first signal; raise KeyboardInterrupt at the second."""
        if self.made:
            raise KeyboardInterrupt
        self.made = True
        self.signum = signum
        print("\nstopping after this step (Ctrl-C again: at once)", file=sys.stderr, flush=True)


@contextmanager
def deferred_interrupt() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a ``StopRequest`` within the block, in the main thread only."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {s: signal.signal(s, request.handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
