"""The exception for mistakes that a user can put right."""

from __future__ import annotations


class UserError(ValueError):
    """A wrong path, name or option: the message alone must tell the user what to do.

    The command line prints it as one line on stderr and exits with code 2; a library caller sees a
    ``ValueError``.
    """


class SharedError(UserError):
    """A mistake that another process of the same run reports; the command line stays silent."""
