"""Take and give back blocks of the pool from several threads. Runs under the sanitizers.

    python tests/native/drive_memory.py LIBRARY

No torch: what a tensor of the pool is made of is read here as DLPack describes it.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path

import numpy as np
from torchless import library, pool

MIB = 1 << 20
SIZES = [1, 70_000, 3 * MIB, 4 * MIB, 5 * MIB + 3]
LIMIT = 16 * MIB


class Tensor(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("dimensions", ctypes.c_int32),
        ("kind", ctypes.c_uint8 * 4),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    ]


def capsule_of(source: pool.Pool, size: int) -> tuple[int, np.ndarray]:
    """A tensor's address and its bytes."""
    block = pool._pack(size, 1, 8, 1, size, *[0] * 7, 1, *[0] * 7)
    address = source._take(block)
    tensor = Tensor.from_address(address)
    assert list(tensor.device) == [1, 0]
    assert (tensor.dimensions, tensor.kind[0], tensor.kind[1], tensor.offset) == (1, 1, 8, 0)
    assert (tensor.shape[0], tensor.strides[0]) == (size, 1)
    run = (ctypes.c_uint8 * size).from_address(tensor.data)
    return address, np.ctypeslib.as_array(run)


def churn(source: pool.Pool, mark: int, wrong: list[int]) -> None:
    """Hold a few tensors at a time; each must keep what was written into it."""
    random = np.random.default_rng(mark)
    held: list[tuple[int, np.ndarray, int]] = []
    for step in range(60):
        address, run = capsule_of(source, int(random.choice(SIZES)))
        run[:] = value = (mark * 61 + step) % 251
        held.append((address, run, value))
        if len(held) > 4:
            address, run, value = held.pop(int(random.integers(len(held))))
            if run[0] != value or run[-1] != value or (run != value).any():
                wrong.append(mark)
            Tensor.from_address(address).deleter(address)
    for address, _, _ in held:
        source._drop(address)


def main(path: Path) -> None:
    """Drive a library."""
    found = library.load(path)
    assert not isinstance(found, str), found
    source = pool.Pool(found)
    source.set_limit(LIMIT)
    wrong: list[int] = []
    threads = [threading.Thread(target=churn, args=(source, i, wrong)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    state = source.state()
    assert state.used == 0
    assert 0 < state.kept <= LIMIT
    assert state.mapped < 4 * 60
    source.set_limit(0)
    assert source.state().kept == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
