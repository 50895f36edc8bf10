"""Processors that a network is built and run for, with the tools that each takes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from l1bn.device.runtime import sources
from l1bn.errors import UserError

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
"""Language and warnings of every compiler."""
_BARE = (
    "-ffreestanding",
    "-nostdlib",
    "-ffunction-sections",
    "-fdata-sections",
    "-Wl,--gc-sections",
)
_QEMU = (
    *("-display", "none", "-monitor", "none", "-serial", "none", "-chardev", "stdio,id=out"),
    *("-semihosting-config", "enable=on,target=native,chardev=out", "-icount", "shift=0"),
    "-kernel",
)
"""Semihosting on standard output; one instruction takes a nanosecond."""


@dataclass(frozen=True)
class Target:
    """A processor, its compiler and the machine that runs its programs.

    Attributes:
        compiler: Command of the compiler.
        flags: Its flags.
        ports: Files of csrc/device/ports that start a trial there.
        linker: Linker script, or None.
        libraries: Libraries that come last.
        runner: Command that runs a program; the program's path follows.
        emulator: The first word of the runner, if it is to be installed.
        packages: Debian packages that hold compiler and emulator.
        binutils: Prefix of objdump and size, or None.
        counts: Whether the emulator counts instructions.
    """

    compiler: str
    flags: tuple[str, ...]
    ports: tuple[str, ...]
    packages: tuple[str, ...]
    linker: str | None = None
    libraries: tuple[str, ...] = ()
    runner: tuple[str, ...] = ()
    binutils: str | None = None
    counts: bool = False

    def missing(self, run: bool = True) -> str | None:
        """Say in one line what to install, or return None where all tools are there.

        Args:
            run: Whether the program is to be run, too.
        """
        tools = [self.compiler, *(self.runner[:1] if run else ())]
        absent = [tool for tool in tools if shutil.which(tool) is None]
        if not absent:
            return None
        return f"{' and '.join(absent)}: not found; apt install {' '.join(self.packages)}"

    def command(self, files: list[Path], output: Path) -> list[str]:
        """Return the command that compiles a program.

        Args:
            files: Its C files.
            output: The program.
        """
        script = [] if self.linker is None else ["-T", str(sources() / "ports" / self.linker)]
        names = [str(f) for f in files]
        return [
            self.compiler,
            *STRICT,
            "-O2",
            *self.flags,
            *script,
            *names,
            "-o",
            str(output),
            *self.libraries,
        ]


def _cortex_m(cpu: str, board: str) -> Target:
    return Target(
        "arm-none-eabi-gcc",
        (f"-mcpu={cpu}", "-mthumb", "-mfloat-abi=soft", *_BARE),
        ("trial.c", "bare.c", "libc.c", "cortex_m.c"),
        ("gcc-arm-none-eabi", "qemu-system-arm"),
        "cortex_m.ld",
        ("-lgcc",),
        ("qemu-system-arm", "-M", board, *_QEMU),
        "arm-none-eabi-",
        counts=True,
    )


TARGETS = {
    "host": Target("gcc", (), ("trial.c", "host.c"), ("gcc",), binutils=""),
    "cortex-m3": _cortex_m("cortex-m3", "mps2-an385"),
    "cortex-m4": _cortex_m("cortex-m4", "mps2-an386"),
    "cortex-m7": _cortex_m("cortex-m7", "mps2-an500"),
    "riscv32": Target(
        "riscv64-unknown-elf-gcc",
        ("-march=rv32imac", "-mabi=ilp32", "-mcmodel=medany", *_BARE),
        ("trial.c", "bare.c", "libc.c", "riscv32.c"),
        ("gcc-riscv64-unknown-elf", "qemu-system-misc"),
        "riscv32.ld",
        ("-lgcc",),
        (
            *("qemu-system-riscv32", "-M", "virt", "-cpu", "rv32,f=false,d=false"),
            *("-bios", "none", *_QEMU),
        ),
        "riscv64-unknown-elf-",
        counts=True,
    ),
    "wasm": Target(
        "clang",
        (
            *("--target=wasm32", "-mbulk-memory", "-ffreestanding", "-nostdlib"),
            *("-Wl,--no-entry", "-Wl,--export=trial"),
        ),
        ("trial.c", "libc.c", "wasm.c"),
        ("clang", "lld", "nodejs"),
        runner=("node",),
    ),
}
"""The processors by name."""


def target_of(name: str) -> Target:
    """Return a processor by name.

    Raises:
        UserError: If there is none of this name.
    """
    if name not in TARGETS:
        raise UserError(f'no target "{name}"; targets: {", ".join(TARGETS)}')
    return TARGETS[name]
