"""A test bench of a unit with registers: cocotb, with AXI models that know nothing of the unit.

``l1bn rtl generate --registers`` writes it beside the Verilog. ``python test_NAME.py`` runs it in
Icarus, ``python test_NAME.py verilator`` in Verilator (5.022 or newer). Everything that it knows of
the unit it reads from the manifest; what must come out is computed by ``l1bn.fixed_point``.

Needs ``pip install l1bn[rtl] cocotb cocotbext-axi`` and ``apt-get install iverilog``.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiResp,
    AxiStreamBus,
    AxiStreamSink,
    AxiStreamSource,
)

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.emit.interface import Interface, Stream
from l1bn.rtl.verify.schedule import Step
from l1bn.rtl.verify.simulate import steps
from l1bn.rtl.verify.stimulus import Channels, expected, extremes, gaussian

HERE = Path(__file__).resolve().parent
MANIFEST = HERE / (Path(__file__).stem.removeprefix("test_") + ".json")
BUSY, DONE = 1, 2


class Driver:
    """A unit on its buses.

    Args:
        dut: The unit.
        stall: Probability of a pause in each clock, at both streams.
    """

    def __init__(self, dut: Any, stall: float) -> None:
        manifest = json.loads(MANIFEST.read_text())
        self.dut, self.boundary = dut, Interface.load(manifest["interface"])
        parameters = manifest["parameters"]
        wrapping = ("axi", "registers")
        self.config = UnitConfig(**{k: v for k, v in parameters.items() if k not in wrapping})
        self.count = self.config.elements
        self.address = {r.name: r.address for r in self.boundary.registers}
        self.words = {r.name: r.words for r in self.boundary.registers}
        self.random = random.Random(1)
        end = (dut.aclk, dut.aresetn)
        self.bus = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), *end, False)
        self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), *end, False)
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), *end, False)
        if stall:
            self.source.set_pause_generator(self._pauses(stall))
            self.sink.set_pause_generator(self._pauses(stall))

    def _pauses(self, stall: float) -> Any:
        while True:
            yield self.random.random() < stall

    async def reset(self) -> None:
        """Start the clock, and hold the reset for some of it."""
        Clock(self.dut.aclk, 10, "ns").start()
        self.dut.aresetn.value = 0
        for _ in range(4):
            await RisingEdge(self.dut.aclk)
        self.dut.aresetn.value = 1
        await RisingEdge(self.dut.aclk)

    async def write(self, name: str, value: int) -> AxiResp:
        """Write a register of any number of words; the answer to the last one."""
        for number in range(self.words[name]):
            word = (value >> (32 * number)) & 0xFFFFFFFF
            place = self.address[name] + 4 * number
            answer = await self.bus.write(place, word.to_bytes(4, "little"))
        return answer.resp

    async def read(self, name: str, *, signed: bool = False) -> int:
        """Read a register of any number of words."""
        answer = await self.bus.read(self.address[name], 4 * self.words[name])
        return int.from_bytes(answer.data, "little", signed=signed)

    def beat(self, stream: Stream, fields: dict[str, int]) -> int:
        """A word of a stream; fields that have no value hold anything: it must not matter."""
        anything = {f.name: self.random.getrandbits(f.width) for f in stream.word.fields}
        return stream.word.pack({**anything, **fields})

    async def command(self, step: Step) -> None:
        """Write the scalars, start, feed; the interrupt ends it."""
        for name in ("gamma", "beta", "guess", "count"):
            if name in step.command:
                await self.write(name, step.command[name])
        code = self.boundary.operations[step.operation.name]
        await self.write("control", 1 << 8 | step.command.get("fill", 0) << 2 | code)
        self.count = step.command.get("count", self.count)
        stream, n = self.boundary.streams["element"], self.count
        size = stream.word.width // 8
        words = [self.beat(stream, fields).to_bytes(size, "little") for _, fields in step.elements]
        for first in range(0, len(words), n):
            await self.source.send(b"".join(words[first : first + n]))
        for _ in range(100 * (len(words) + 1000)):
            if self.dut.irq.value:
                break
            await RisingEdge(self.dut.aclk)
        assert self.dut.irq.value, f"{step.operation.name} does not end"
        assert await self.write("status", DONE) == AxiResp.OKAY

    async def results(self, step: Step) -> list[dict[str, int]]:
        """The fields of what came out: one frame, ended by TLAST, or nothing."""
        if not step.results:
            assert self.sink.empty()
            return []
        frame = await self.sink.recv()
        word = self.boundary.streams["result"].word
        data, size = bytes(frame.tdata), word.width // 8
        beats = [data[first : first + size] for first in range(0, len(data), size)]
        return [word.unpack(int.from_bytes(beat, "little")) for beat in beats]


def elements(config: UnitConfig) -> int:
    """No power of two, where the unit takes any number."""
    return config.elements - 3 if config.counted else config.elements


async def run(dut: Any, channels_of: Any, stall: float) -> None:
    """Channels through the unit, each in the order that the unit is made for."""
    driver = Driver(dut, stall)
    await driver.reset()
    await driver.write("interrupt_enable", 1)
    channels: Channels = channels_of(driver.config)
    judged = list(expected(driver.config, channels))
    contexts: dict[int, int] = {}
    for step in steps(driver.config, channels, judged, "restored"):
        if step.loads is not None:
            await driver.write("context", contexts[step.loads])
        await driver.command(step)
        if step.saves is not None:
            contexts[step.saves] = await driver.read("context")
        if step.scalars is not None:
            dgamma = await driver.read("dgamma", signed=True)
            assert (dgamma, await driver.read("dbeta", signed=True)) == step.scalars
            assert await driver.write("dgamma", ~dgamma) == AxiResp.SLVERR
            assert await driver.read("dgamma", signed=True) == dgamma
        got = await driver.results(step)
        want = [{k: v for k, v in fields.items() if k != "last"} for fields in step.results]
        assert got == want, f"{step.operation.name} of channel {step.channel}"
    assert (await driver.read("status") >> 2 & 3) == 0, "an error is set"


@cocotb.test()
async def gaussian_channels(dut: Any) -> None:
    """Two channels without a pause."""
    await run(dut, lambda config: gaussian(config, 2, count=elements(config)), 0.0)


@cocotb.test()
async def extreme_channels_with_stalls(dut: Any) -> None:
    """Constant, one-hot, saturated channels; both streams pause at random."""
    await run(dut, lambda config: extremes(config, count=elements(config)), 0.4)


@cocotb.test()
async def registers_hold_while_a_command_runs(dut: Any) -> None:
    """A write then is refused and changes nothing; so is one to no register, and a read of none."""
    driver = Driver(dut, 0.0)
    await driver.reset()
    assert await driver.write("gamma", -3) == AxiResp.OKAY
    assert await driver.read("gamma", signed=True) == -3
    await driver.write("control", 1 << 8)
    assert await driver.read("status") & 1
    assert await driver.write("gamma", 5) == AxiResp.SLVERR
    assert await driver.read("gamma", signed=True) == -3
    assert not dut.irq.value
    assert (await driver.bus.write(0x3C, bytes(4))).resp == AxiResp.SLVERR
    nothing = await driver.bus.read(0x3C, 4)
    assert (nothing.resp, nothing.data) == (AxiResp.SLVERR, bytes(4))
    config = driver.config
    kind = (config.norm == "l2") | config.overlap << 1 | config.counted << 2
    shape = config.width | config.log2_elements << 8
    assert await driver.read("unit") == shape | kind << 16


@cocotb.test()
async def read_only_registers_refuse_writes(dut: Any) -> None:
    """Each is answered with an error, and reads as before."""
    driver = Driver(dut, 0.0)
    await driver.reset()
    if driver.config.counted:
        assert await driver.read("count") == driver.config.elements
    before = await driver.read("unit")
    fixed = [r.name for r in driver.boundary.registers if r.access == "ro"]
    assert sorted(fixed) == ["dbeta", "dgamma", "unit"]
    for name in fixed:
        assert await driver.write(name, ~before) == AxiResp.SLVERR, name
    assert await driver.read("unit") == before


@cocotb.test()
async def a_start_clears_done(dut: Any) -> None:
    """A command that has ended is no sign that the next one has."""
    driver = Driver(dut, 0.0)
    await driver.reset()
    await driver.write("interrupt_enable", 1)
    await driver.write("control", 1 << 8 | driver.boundary.operations["RESTORE"])
    assert await driver.read("status") & 3 == DONE
    assert dut.irq.value
    await driver.write("control", 1 << 8 | driver.boundary.operations["FORWARD"])
    assert await driver.read("status") & 3 == BUSY
    assert not dut.irq.value


def main(simulator: str = "icarus") -> None:
    """Build the Verilog beside this file and run every test."""
    from cocotb_tools.check_results import get_results
    from cocotb_tools.runner import get_runner

    name = MANIFEST.stem
    runner = get_runner(simulator)
    folder = HERE / f"build_{simulator}"
    runner.build(
        sources=[HERE / f"{name}.v"], hdl_toplevel=name, build_dir=folder, always=True
    )  # fmt: skip
    results = runner.test(
        hdl_toplevel=name, test_module=Path(__file__).stem, build_dir=folder, test_dir=HERE
    )  # fmt: skip
    ran, failed = get_results(results)
    print(f"{ran - failed} of {ran} tests passed")
    if failed or not ran:
        raise SystemExit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
