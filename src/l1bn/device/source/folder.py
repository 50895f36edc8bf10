"""Writes the folder that a device's project takes over: C files, a Makefile, a description."""

from __future__ import annotations

import shutil
from pathlib import Path

from l1bn.device.program.build import Build
from l1bn.device.source import tables
from l1bn.device.source.runtime import files


def write(build: Build, folder: str | Path, name: str = "network") -> Path:
    """Write a network and the runtime that it needs.

    Args:
        build: What ``l1bn.device.build`` returned.
        folder: Where to write; it is made if it is missing.
        name: Name of the files and prefix of the functions: a C identifier.

    Returns:
        The folder.

    Raises:
        ValueError: If the name is no C identifier.
    """
    if not name.isidentifier() or not name.isascii():
        raise ValueError(f"expected a C identifier as a name, got {name!r}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for path in files():
        shutil.copyfile(path, target / path.name)
    (target / f"{name}.h").write_text(tables.header(build, name))
    (target / f"{name}.c").write_text(tables.source(build, name))
    (target / "Makefile").write_text(_MAKEFILE.format(name=name))
    (target / "README.md").write_text(_readme(build, name))
    return target


def _readme(build: Build, name: str) -> str:
    """Return what whoever opens the folder needs to know."""
    channels, height, width = build.shape
    learned = sum(p.weight.numel() for p in build.layout.learned)
    return _README.format(
        name=name,
        shape=f"{height} x {width} pixels of {channels} numbers",
        exponent=build.options.exponent,
        classes=build.classes,
        batch=build.options.batch,
        learned=f"{learned:,}",
        ram=f"{build.ram:,}",
        arena=f"{build.arena:,}",
        state=f"{build.layout.size:,}",
        infer=f"{build.infer_memory.size:,}",
    )


_MAKEFILE = """\
# make CC=arm-none-eabi-gcc CFLAGS="-O2 -mcpu=cortex-m4 -mthumb"
CFLAGS ?= -O2
OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))

lib{name}.a: $(OBJECTS)
\t$(AR) rcs $@ $^

%.o: %.c $(wildcard *.h)
\t$(CC) -std=c99 -Wall -Wextra $(CFLAGS) -c $< -o $@

clean:
\trm -f $(OBJECTS) lib{name}.a
.PHONY: clean
"""

_README = """\
# {name}

A network that infers and learns in integers, made by l1bn.device. C99; it calls no function but
memcpy and memset, allocates nothing and never recurses.

| | |
|---|---|
| image | {shape}, 8 bits in steps of 2**{exponent} |
| classes | {classes} |
| images of a training step | {batch} |
| numbers that learn | {learned} |
| RAM | {ram} bytes: {arena} for activations and errors, {state} for what learns |
| of these for inference | {infer} bytes of activations |

The stack comes on top, less than 2 KiB.

```c
#include "{name}.h"

{name}_init();                                   /* weights from flash */
{name}_infer(image, logits);                     /* one image */
{name}_train_step(images, labels, rate);         /* a batch; rate: learning rate times 65536 */
{name}_train_part(images, labels, rate, blocks); /* some layers only: {name}.h names them */
{name}_train_measured(images, labels, rate, blocks, magnitudes); /* and measures gradients */
{name}_state_save(&storage);                     /* to flash: two slots, the older survives */
{name}_state_load(&storage);                     /* the newest intact one */
```

`l1bn_device.h` documents every function and status, and the storage functions to provide.
`make` builds a library with the compiler in `CC`. One call at a time: they share one memory.
"""
