"""The command line: ``l1bn COMMAND ...``.

A command is a function from arguments to an exit code, named in ``COMMANDS`` and imported only when
it is called, so that help is quick and a missing extra stops only the commands that need it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from l1bn.errors import SharedError, UserError


@dataclass(frozen=True)
class Command:
    """A command of the program.

    Attributes:
        target: Where it is, as ``module:function``; the function takes the remaining arguments and
            returns the exit code.
        text: What it does, in a few words.
        extra: The extra of the distribution that brings what it needs.
    """

    target: str
    text: str
    extra: str


COMMANDS = {
    "train": Command(
        "l1bn.recipes.commands:train_command", "train a network with L1BN or BatchNorm", "recipes"
    ),
    "compare": Command(
        "l1bn.recipes.commands:compare_command", "L1BN against BatchNorm, with a report", "recipes"
    ),
    "gan": Command(
        "l1bn.recipes.commands:gan_command",
        "train a DCGAN or WGAN-GP with L1BN or BatchNorm",
        "recipes",
    ),
    "gan-compare": Command(
        "l1bn.recipes.commands:gan_compare_command",
        "a GAN with L1BN against one with BatchNorm, with a report",
        "recipes",
    ),
    "continual": Command(
        "l1bn.recipes.continual.commands:continual_command",
        "learn tasks one after the other, in float and in integers",
        "recipes",
    ),
    "device": Command(
        "l1bn.recipes.board:device_command",
        "an integer network as C that learns on a microcontroller",
        "recipes",
    ),
    "rtl": Command(
        "l1bn.rtl.cli:rtl_command", "generate, verify and measure an L1BN training unit", "rtl"
    ),
    "build": Command(
        "l1bn.doctor.build:build_command", "compile the autograd node for this torch", "recipes"
    ),
    "doctor": Command(
        "l1bn.doctor:doctor_command", "what can run here, and why something cannot", "recipes"
    ),
}
"""The commands by name."""

_FAILED = 1
_USAGE_ERROR = 2
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments, those of the process by default.

    Returns:
        The exit code: 0; 1 if a file could not be read or written; 2 for a mistake in what was
        asked for; 130 after Ctrl-C and 143 after SIGTERM, with everything saved; 141 if whoever
        read the output has gone.
    """
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except SystemExit:  # help and mistyped options, printed already
        return _flushed()
    except SharedError:  # another process says it
        return _USAGE_ERROR
    except UserError as error:
        print(f"l1bn: {error}", file=sys.stderr)
        return _USAGE_ERROR
    except BrokenPipeError:
        return _silence()
    except OSError as error:
        print(f"l1bn: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print("l1bn: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _flushed() -> int:
    """End as the exception that is being handled does, if the output still has a reader."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _silence()
    raise


def _silence() -> int:
    """Send what is left of the output nowhere, so that the interpreter's end is quiet too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return _BROKEN_PIPE


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    name, *rest = arguments
    if name == "--version":
        return _version()
    return _run(name, rest)


def _run(name: str, rest: list[str]) -> int:
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"commands: {', '.join(COMMANDS)}"
        raise UserError(f'no command "{name}"; {hint}')
    module, function = COMMANDS[name].target.split(":")
    try:
        command = getattr(importlib.import_module(module), function)
        return int(command(rest))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "l1bn":
            raise
        raise UserError(
            f'"l1bn {name}" needs {error.name}, which is not installed: '
            f'pip install "l1bn[{COMMANDS[name].extra}]"'
        ) from error


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.text}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: l1bn COMMAND [OPTIONS]",
            "",
            "L1-norm batch normalization: training, comparison with BatchNorm, tools.",
            "",
            "commands:",
            *lines,
            "",
            "l1bn COMMAND --help lists the options of a command, l1bn --version the version.",
            "",
            "exit codes: 0 done, 1 a file failed, 2 a mistake in the command,",
            "130 stopped by Ctrl-C and 143 by SIGTERM (all is saved),",
            "141 nobody reads the output.",
        ]
    )


def _version() -> int:
    from l1bn.environment import version_of

    print(f"l1bn {version_of('l1bn')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
