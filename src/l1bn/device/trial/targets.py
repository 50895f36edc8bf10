"""Processors that a network is built and run for, with the tools that each takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from l1bn import tools
from l1bn.device.source.runtime import sources

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")
"""Language and warnings of every compiler."""
PLAIN = ("-DL1BN_PLAIN",)
"""Flags that take plain C where a processor has vectors."""
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
        linker: Program that the compiler calls to link, if it comes apart from it.
        script: Linker script, or None.
        libraries: Libraries that come last.
        runner: Command that runs a program; the program's path follows.
        binutils: Prefix of objdump and size; None where what they say is no device's.
        counts: Whether the emulator counts instructions.
        vectors: Whether its sums of products have a form that ``PLAIN`` turns off.
    """

    compiler: str
    flags: tuple[str, ...]
    ports: tuple[str, ...]
    linker: str | None = None
    script: str | None = None
    libraries: tuple[str, ...] = ()
    runner: tuple[str, ...] = ()
    binutils: str | None = None
    counts: bool = False
    vectors: bool = False

    def missing(self, run: bool = True) -> str | None:
        """Say in one line what to install, or return None where all tools are there.

        Args:
            run: Whether the program is to be run, too.
        """
        linker = () if self.linker is None else (self.linker,)
        return tools.missing(self.compiler, *linker, *(self.runner[:1] if run else ()))

    def command(self, files: list[Path], output: Path) -> list[str]:
        """Return the command that compiles a program.

        Args:
            files: Its C files.
            output: The program.
        """
        script = [] if self.script is None else ["-T", str(sources() / "ports" / self.script)]
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


_NRF51 = (
    *("microbit", "-global", "nrf51-soc.sram-size=0x400000"),
    *("-global", "nrf51-soc.flash-size=0x400000"),
)
"""The only board with a Cortex-M0, with memory as the others have it."""


_INTEGER_MVE = ("-march=armv8.1-m.main+mve", "-mthumb", "-mfloat-abi=hard")
"""A Cortex-M55 without a float unit; vectors are passed in registers, which gcc calls hard."""


def _cortex_m(
    cpu: str,
    *board: str,
    clock: str = "mps2.c",
    script: str = "cortex_m.ld",
    flags: tuple[str, ...] = (),
    vectors: bool = False,
) -> Target:
    return Target(
        "arm-none-eabi-gcc",
        (*(flags or (f"-mcpu={cpu}", "-mthumb", "-mfloat-abi=soft")), *_BARE),
        ("trial.c", "bare.c", "libc.c", "cortex_m.c", clock),
        script=script,
        libraries=("-lgcc",),
        runner=("qemu-system-arm", "-M", *board, *_QEMU),
        binutils="arm-none-eabi-",
        counts=True,
        vectors=vectors,
    )


_WASM = (
    *("--target=wasm32", "-mbulk-memory", "-msimd128", "-ffreestanding", "-nostdlib"),
    "-Wl,--no-entry",
)
"""Browsers have these vectors since 2021, Safari since 2023."""

TARGETS = {
    "host": Target("gcc", (), ("trial.c", "host.c")),
    "cortex-m0": _cortex_m("cortex-m0", *_NRF51, clock="nrf51.c"),
    "cortex-m3": _cortex_m("cortex-m3", "mps2-an385"),
    "cortex-m4": _cortex_m("cortex-m4", "mps2-an386", vectors=True),
    "cortex-m7": _cortex_m("cortex-m7", "mps2-an500", vectors=True),
    "cortex-m55": _cortex_m(
        "cortex-m55",
        "mps3-an547",
        clock="systick.c",
        script="cortex_m55.ld",
        flags=_INTEGER_MVE,
        vectors=True,
    ),
    "riscv32": Target(
        "riscv64-unknown-elf-gcc",
        ("-march=rv32imac", "-mabi=ilp32", "-mcmodel=medany", *_BARE),
        ("trial.c", "bare.c", "libc.c", "riscv32.c"),
        script="riscv32.ld",
        libraries=("-lgcc",),
        runner=(
            *("qemu-system-riscv32", "-M", "virt", "-cpu", "rv32,f=false,d=false"),
            *("-bios", "none", *_QEMU),
        ),
        binutils="riscv64-unknown-elf-",
        counts=True,
    ),
    "wasm": Target(
        "clang",
        (*_WASM, "-Wl,--export=trial"),
        ("trial.c", "libc.c", "wasm.c"),
        linker="wasm-ld",
        runner=("node",),
    ),
}
"""The processors by name; ``l1bn device --target`` offers the same."""

PAGE = Target("clang", _WASM, ("page.c", "libc.c"), linker="wasm-ld")
"""The module that a page loads."""
