"""What goes wrong on a device is defined: power loss, damaged flash, bad labels, little memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import l1bn
from l1bn import device, quantized
from small_networks import digits, lenet, odd, resnet8, trained

OK, BAD_LABEL, BAD_RATE, NO_STATE, STORAGE, NO_TRAINING = range(6)
BATCH = 4

_ERASE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)
_MOVE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_uint32,
    ctypes.c_uint32,
    ctypes.POINTER(ctypes.c_uint8),
    ctypes.c_uint32,
)


class Flash(ctypes.Structure):
    """Two slots whose power can fail at any byte: what was not reached keeps what it held.

    Attributes:
        left: Bytes until the power fails; None, never.
        unread: Numbers of the reads that fail, from 0 on.
        reads: How many there were.
    """

    _fields_ = (("context", ctypes.c_void_p), ("erase", _ERASE), ("write", _MOVE), ("read", _MOVE))

    def __init__(self, size: int) -> None:
        self.slots = [bytearray(b"\xff" * size) for _ in range(2)]
        self.left: int | None = None
        self.unread: Collection[int] = ()
        self.reads = 0
        super().__init__(None, _ERASE(self._erase), _MOVE(self._write), _MOVE(self._read))

    def _spend(self, size: int) -> int:
        done = size if self.left is None else min(size, self.left)
        if self.left is not None:
            self.left -= done
        return done

    def _erase(self, context: int, slot: int) -> int:
        size = len(self.slots[slot])
        done = self._spend(size)
        self.slots[slot][:done] = b"\xff" * done
        return int(done < size)

    def _write(self, context: int, slot: int, offset: int, data: Any, size: int) -> int:
        done = self._spend(size)
        self.slots[slot][offset : offset + done] = ctypes.string_at(data, done)
        return int(done < size)

    def _read(self, context: int, slot: int, offset: int, data: Any, size: int) -> int:
        number, self.reads = self.reads, self.reads + 1
        if number in self.unread:
            return 1
        ctypes.memmove(data, bytes(self.slots[slot][offset : offset + size]), size)
        return 0

    def count(self, call: Callable[[], int]) -> int:
        """Reads that a call makes, which must succeed."""
        self.reads = 0
        assert call() == OK
        return self.reads

    def fail(self, call: Callable[[], int], unread: Collection[int]) -> int:
        """What a call returns while some of its reads fail."""
        self.reads, self.unread = 0, unread
        status = call()
        self.unread = ()
        return status


def small(learn: device.Learn = "classifier", **options: Any) -> device.Build:
    torch.manual_seed(0)
    network = trained(odd())
    device.choose(network, learn)
    return device.build(network, (1, 8, 8), device.Options(batch=BATCH, **options))


def learn_once(host: Any, first: int) -> bytes:
    images, labels = digits(first, BATCH)
    assert host.train(images, labels.numpy(), 0.05)[0] == OK
    return host.state


def save(host: Any, flash: Flash) -> int:
    return host.library.network_state_save(ctypes.byref(flash))


def load(host: Any, flash: Flash) -> int:
    return host.library.network_state_load(ctypes.byref(flash))


def test_power_may_fail_at_every_byte_of_a_save(on_host: Any) -> None:
    host = on_host(small(momentum=0.0))
    size = host.library.network_state_size()
    flash = Flash(size)
    first = learn_once(host, 0)
    assert save(host, flash) == OK
    second = learn_once(host, BATCH)
    kept = [bytes(s) for s in flash.slots]
    whole = 2 * size  # erased once, written once
    for left in range(0, whole + 1):
        flash.slots = [bytearray(s) for s in kept]
        ctypes.memmove(host.device.state, second, len(second))
        flash.left = left
        assert save(host, flash) == (OK if left == whole else STORAGE)
        flash.left = None
        host.library.network_init()
        assert load(host, flash) == OK
        assert host.state == (second if left == whole else first), f"power lost after {left} bytes"


def test_the_newest_state_is_read_and_the_oldest_overwritten(on_host: Any) -> None:
    host = on_host(small())
    flash = Flash(host.library.network_state_size())
    states = []
    for step in range(4):
        states.append(learn_once(host, BATCH * step))
        assert save(host, flash) == OK
    host.library.network_init()
    assert load(host, flash) == OK
    assert host.state == states[-1]
    newest = next(i for i, s in enumerate(flash.slots) if states[-1] in s)
    flash.slots[newest][100] ^= 1
    assert load(host, flash) == OK
    assert host.state == states[-2]


def saved_twice(host: Any) -> tuple[Flash, bytes]:
    """Flash with a state in either slot, and the newer of them."""
    flash = Flash(host.library.network_state_size())
    states = []
    for step in range(2):
        states.append(learn_once(host, BATCH * step))
        assert save(host, flash) == OK
    return flash, states[-1]


def test_a_save_that_cannot_read_the_slots_erases_none(on_host: Any) -> None:
    host = on_host(small(momentum=0.0))
    flash, newest = saved_twice(host)
    kept = [bytes(s) for s in flash.slots]
    reads = flash.count(lambda: save(host, flash))
    assert reads > 4
    flash.slots = [bytearray(s) for s in kept]
    learn_once(host, 2 * BATCH)
    for unread in (*([n] for n in range(reads)), range(reads)):
        assert flash.fail(lambda: save(host, flash), unread) == STORAGE
        assert [bytes(s) for s in flash.slots] == kept, f"reads {unread} failed"
    assert load(host, flash) == OK
    assert host.state == newest


def test_a_load_that_cannot_read_takes_no_older_state(on_host: Any) -> None:
    host = on_host(small(momentum=0.0))
    initial = host.state
    flash, newest = saved_twice(host)
    reads = flash.count(lambda: load(host, flash))
    before = learn_once(host, 2 * BATCH)
    for number in range(reads - 1):
        assert flash.fail(lambda: load(host, flash), [number]) == STORAGE, f"read {number} failed"
        assert host.state == before
    assert flash.fail(lambda: load(host, flash), range(reads)) == STORAGE
    assert host.state == before
    assert flash.fail(lambda: load(host, flash), [reads - 1]) == STORAGE
    assert host.state == initial  # half a state is none: the weights in flash
    assert load(host, flash) == OK
    assert host.state == newest


def test_every_damaged_byte_is_noticed(on_host: Any) -> None:
    host = on_host(small(momentum=0.0))
    flash = Flash(host.library.network_state_size())
    learn_once(host, 0)
    save(host, flash)
    before = host.state
    for at in range(len(flash.slots[0])):
        flash.slots[0][at] ^= 0x40
        assert load(host, flash) == NO_STATE, f"byte {at}"
        flash.slots[0][at] ^= 0x40
    assert host.state == before
    assert load(host, flash) == OK


def test_a_state_of_another_network_is_refused(on_host: Any) -> None:
    first = on_host(small())
    flash = Flash(first.library.network_state_size())
    save(first, flash)
    host = on_host(small("classifier", smoothing=0.1))
    assert host.library.network_state_size() == len(flash.slots[0])
    before = host.state
    assert load(host, flash) == NO_STATE
    assert host.state == before


@pytest.mark.parametrize("label", [10, 65535])
def test_a_label_that_is_no_class_changes_nothing(on_host: Any, label: int) -> None:
    host = on_host(small())
    before = host.state
    images, labels = digits(0, BATCH)
    bad = labels.numpy().copy()
    bad[-1] = label
    assert host.train(images, bad, 0.05)[0] == BAD_LABEL
    assert host.train(images, labels.numpy(), 65.0)[0] == BAD_RATE
    assert host.state == before
    assert host.train(images, labels.numpy(), 0.05)[0] == OK


def test_a_network_that_only_infers_refuses_to_learn(on_host: Any) -> None:
    host = on_host(small("none"))
    images, labels = digits(0, BATCH)
    assert host.train(images, labels.numpy(), 0.05)[0] == NO_TRAINING
    network = host.build.network.eval()
    image, _ = digits(5, 1)
    np.testing.assert_array_equal(host.infer(image), network(image).values[0].numpy())


def test_too_little_memory_is_refused_with_what_is_needed() -> None:
    with pytest.raises(ValueError, match=r"expected to fit 1000 bytes of RAM, needs (\d+)") as info:
        small("all", ram=1000)
    need = int(str(info.value).split("needs ")[1].split(":")[0])
    assert small("all", ram=need).ram == need
    with pytest.raises(ValueError, match="take a smaller batch"):
        small("all", ram=need - 8)


def test_what_has_no_form_on_a_device_is_refused() -> None:
    network = quantized.prepare(resnet8())
    device.choose(network, "classifier")
    with pytest.raises(ValueError, match="expected a trained layer where it is frozen"):
        device.build(network, (1, 8, 8))
    ends_in_norm = quantized.prepare(nn.Sequential(nn.Linear(4, 4), l1bn.L1BatchNorm1d(4)))
    with pytest.raises(ValueError, match="expected a network that ends in a linear layer"):
        device.build(ends_in_norm, (4, 1, 1))
    ranges = quantized.prepare(resnet8(), quantized.Config(norm="range"))
    with pytest.raises(ValueError, match='expected Config\\(norm="l1"\\)'):
        device.build(ranges, (1, 8, 8))


def test_layers_in_evaluation_come_first() -> None:
    network = trained(lenet())
    device.choose(network, "all")
    network.layers[3].eval()
    with pytest.raises(ValueError, match="expected layers in evaluation mode to come before"):
        device.build(network, (1, 8, 8))


@pytest.mark.parametrize("learn", [-1, 6, True, "some", 1.5])
def test_a_choice_that_is_none_is_refused(learn: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        device.choose(trained(lenet()), learn)


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"batch": 33}, {"smoothing": 2}, {"momentum": 1}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        device.Options(**options)


def test_a_name_that_c_does_not_take_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="C identifier"):
        device.write(small(), tmp_path, "my network")


def test_weights_that_learn_twice_are_refused():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), conv, nn.Flatten(), nn.Linear(64, 2))
    network = quantized.prepare(model)
    with pytest.raises(ValueError, match=r"expected weights of its own .* another layer's"):
        device.build(network, (1, 8, 8))
