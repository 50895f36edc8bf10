"""The pool behind large results: what a tensor of it may be used for, its bounds, its threads."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from l1bn import L1BatchNorm2d, L1BatchNormAct2d, memory
from l1bn.ops.cpu import kernels
from l1bn.ops.cpu.memory import POOLED, Ordinary, empty_like, empty_run, is_ordinary
from l1bn.ops.native.pool import DIMENSIONS

if isinstance(kernels.NATIVE, str):
    pytest.skip(kernels.NATIVE, allow_module_level=True)

SHAPE = (4, 8, 192, 192)  # 4.5 MiB in float32
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    limit = memory.stats().limit
    memory.release()
    yield
    memory.set_limit(limit)


def ours(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> Tensor:
    used = memory.stats().used
    found = empty_like(Ordinary(torch.zeros(shape, dtype=dtype)))
    assert memory.stats().used > used
    return found


def plain(width: int) -> Tensor:
    return empty_like(Ordinary(torch.zeros(4, 8, 192, width)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "like",
    [
        torch.zeros(4, 16, 128, 128),
        torch.zeros(4, 16, 128, 128).contiguous(memory_format=torch.channels_last),
        torch.zeros(2, 16, 4, 128, 128).contiguous(memory_format=torch.channels_last_3d),
        torch.zeros(2**21, 1),
        torch.zeros((1, 2) * (DIMENSIONS // 2 - 1) + (1024, 1024)),
    ],
    ids=lambda v: f"{v.dim()}d{tuple(v.stride())[1]}",
)
def test_it_has_shape_strides_and_dtype(like: Tensor, dtype: torch.dtype) -> None:
    wanted = like.to(dtype)
    if wanted.nbytes < POOLED:
        pytest.skip("small")
    used = memory.stats().used
    found = empty_like(Ordinary(wanted))
    assert memory.stats().used - used >= wanted.nbytes
    assert found.shape == wanted.shape
    assert found.stride() == wanted.stride()
    assert found.dtype == dtype
    assert is_ordinary(found)
    assert not found.is_shared()
    assert found._base is None
    found.fill_(3)
    assert bool((found == 3).all())


def test_small_ones_and_more_dimensions_come_from_torch() -> None:
    used = memory.stats().used
    for like in (torch.zeros(100), torch.zeros((1,) * DIMENSIONS + (2 * MIB,))):
        assert empty_like(Ordinary(like)).shape == like.shape
    assert memory.stats().used == used


def test_memory_is_taken_again() -> None:
    first = ours()
    address, mapped = first.data_ptr(), memory.stats().mapped
    del first
    assert memory.stats().kept >= 4.5 * MIB
    second = ours()
    assert second.data_ptr() == address
    assert memory.stats().mapped == mapped


def test_two_that_live_share_nothing() -> None:
    tensors = [ours().fill_(i) for i in range(5)]
    for i, tensor in enumerate(tensors):
        assert bool((tensor == i).all())
    assert len({t.data_ptr() for t in tensors}) == 5


def test_a_view_and_an_array_keep_it() -> None:
    tensor = ours().fill_(7)
    part, array = tensor[1:, 2], tensor.numpy()
    del tensor
    others = [ours().fill_(i) for i in range(3)]
    assert bool((part == 7).all())
    assert (array == 7).all()
    del part, array
    assert memory.stats().used == sum(-(-o.nbytes // (64 << 10)) * (64 << 10) for o in others)


def test_the_limit_bounds_what_is_kept() -> None:
    memory.set_limit(12 * MIB)
    tensors = [ours() for _ in range(6)]
    del tensors
    assert 0 < memory.stats().kept <= 12 * MIB
    memory.set_limit(5 * MIB)
    assert 0 < memory.stats().kept <= 5 * MIB
    ours((16, 8, 192, 192))  # 18 MiB: more than may be kept at all
    assert 0 < memory.stats().kept <= 5 * MIB
    memory.release()
    assert memory.stats().kept == 0


def test_without_a_limit_torch_allocates() -> None:
    kept = ours()
    memory.set_limit(0)
    used = memory.stats().used
    empty_like(Ordinary(torch.zeros(SHAPE)))
    assert memory.stats().used == used
    del kept
    assert memory.stats().used == memory.stats().kept == 0
    with pytest.raises(ValueError, match="at least 0, got -1"):
        memory.set_limit(-1)


def test_a_block_serves_a_slightly_smaller_tensor_only() -> None:
    ours()  # 4.5 MiB
    mapped = memory.stats().mapped
    ours((4, 8, 190, 192))
    assert memory.stats().mapped == mapped
    memory.release()
    ours((8, 8, 192, 192))
    ours()  # would waste half of the 9 MiB
    assert memory.stats().mapped == mapped + 2
    assert memory.stats().used == 0


def test_modes_are_seen() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        used = memory.stats().used
        with pytest.raises(TypeError, match="FakeTensor"):
            empty_like(Ordinary(torch.zeros(SHAPE)))
        assert memory.stats().used == used
    with torch.inference_mode():
        assert ours().is_inference()


def layer_step(layer: torch.nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    y.backward(torch.ones_like(y))
    return y.detach(), leaf.grad, layer.weight.grad, layer.bias.grad  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [L1BatchNorm2d, L1BatchNormAct2d])
@pytest.mark.parametrize("last", [False, True])
def test_a_layer_computes_the_same_bits(kind: type, last: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(SHAPE)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    found = []
    for limit in (0, 64 * MIB, 64 * MIB):  # fresh memory, then used one
        memory.set_limit(limit)
        layer = kind(8)
        used = memory.stats().used
        found.append(layer_step(layer, x))
        assert (memory.stats().used > used) == (limit > 0)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)
            assert a.stride() == b.stride()


def test_a_tensor_goes_everywhere() -> None:
    tensor = ours().fill_(2)
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer), tensor)
    assert torch.equal(copy.deepcopy(tensor), tensor)
    assert torch.equal(torch.from_dlpack(tensor), tensor)
    tensor.resize_(4, 8, 96, 192)
    assert bool((tensor == 2).all())
    with pytest.raises(RuntimeError, match="not resizable"):
        tensor.resize_(1024, *SHAPE)
    shared = ours().fill_(5)
    shared.share_memory_()
    assert shared.is_shared()
    assert bool((shared == 5).all())


def _child(queue: object, tensor: Tensor) -> None:
    torch.set_num_threads(1)  # the parent's threads are not here
    right = bool((tensor == 4).all())
    mine = ours().fill_(6)
    queue.put((right, mine.sum().item(), memory.stats().used))  # type: ignore[attr-defined]


def test_a_forked_child_goes_on() -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            plain(192)

    tensor = ours().fill_(4)
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        context = multiprocessing.get_context("fork")
        for _ in range(3):
            queue = context.SimpleQueue()
            process = context.Process(target=_child, args=(queue, tensor))
            process.start()
            right, total, _ = queue.get()
            process.join(30)
            assert process.exitcode == 0
            assert right
            assert total == 6 * tensor.numel()
    finally:
        stop.set()
        thread.join()
    assert bool((tensor == 4).all())


def test_threads_get_memory_of_their_own() -> None:
    wrong = []

    def work(mark: int) -> None:
        kept: list[Tensor] = []
        for step in range(40):
            kept.append(plain(192 + 8 * (step % 3)).fill_(mark * 100 + step))
            if len(kept) > 3:
                old = kept.pop(step % 3)
                if not bool((old == old.flatten()[0]).all()):
                    wrong.append(mark)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert memory.stats().used == 0


STEPS = """
import os, resource, torch
from l1bn import L1BatchNormAct2d, memory
torch.set_num_threads(1)
layers = torch.nn.Sequential(*(L1BatchNormAct2d(4) for _ in range(2)))
x = torch.randn(4, 4, 260, 260, requires_grad=True)
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
def steps(count):
    for _ in range(count):
        layers(x).sum().backward()
        x.grad = None
steps(20)
before, mapped = resident(), memory.stats().mapped
steps({count})
print(resident() - before, memory.stats().mapped - mapped, memory.stats().used)
keep = layers(x)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")
def test_resident_memory_stays_over_steps() -> None:
    count = int(os.environ.get("L1BN_POOL_STEPS", "200"))
    found = subprocess.run(
        [sys.executable, "-c", STEPS.format(count=count)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    grown, mapped, used = map(int, found.stdout.split())
    assert grown < 32 * MIB  # what malloc keeps or not for torch moves by half of it
    assert mapped == 0
    assert used == 0
    assert not found.stderr  # the process ends with a tensor of the pool alive


def test_a_run_of_elements() -> None:
    used = memory.stats().used
    run = empty_run(5 * MIB, torch.uint8)
    assert run.shape == (5 * MIB,)
    assert memory.stats().used - used >= 5 * MIB
    assert empty_run(3, torch.float32).shape == (3,)
