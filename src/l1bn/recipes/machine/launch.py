"""What torchrun says about this process, in its environment. Needs no torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

from l1bn.errors import SharedError, UserError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def is_launched() -> bool:
    """Return whether torchrun, or something like it, started this process."""
    return all(name in os.environ for name in _VARIABLES)


def is_first() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return not is_launched() or os.environ["RANK"] == "0"


def first_speaks(command: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """Let a command print in the first process only; errors of the others are still seen."""

    @wraps(command)
    def run(arguments: list[str]) -> int:
        if is_first():
            return command(arguments)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return command(arguments)

    return run


@contextmanager
def same_everywhere() -> Iterator[None]:
    """Say once what every process finds in the same arguments.

    Raises:
        SharedError: In place of a mistake that the first process reports.
    """
    if is_first():
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            yield
    except UserError as error:
        raise SharedError(str(error)) from error
