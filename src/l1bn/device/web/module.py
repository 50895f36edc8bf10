"""Compiles a network and its runtime to WebAssembly, for a page."""

from __future__ import annotations

from tempfile import TemporaryDirectory

from l1bn import tools
from l1bn.device.program.build import Build
from l1bn.device.source.folder import write
from l1bn.device.source.runtime import sources
from l1bn.device.trial.targets import PAGE


def compile_module(build: Build) -> bytes:
    """Return the WebAssembly module of a network: what csrc/device/ports/page.c exports.

    Raises:
        ToolError: If the compiler or linker is missing, or refuses.
    """
    if reason := PAGE.missing(run=False):
        raise tools.ToolError(reason)
    with TemporaryDirectory() as place:
        folder = write(build, place)
        ports = sources() / "ports"
        files = [*sorted(folder.glob("*.c")), *(ports / name for name in PAGE.ports)]
        module = folder / "network.wasm"
        command = PAGE.command(files, module)
        tools.run([command[0], f"-I{folder}", f"-I{ports}", *command[1:]])
        return module.read_bytes()
