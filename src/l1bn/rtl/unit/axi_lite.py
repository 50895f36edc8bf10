"""A unit with registers: commands, scalars and contexts over AXI4-Lite, elements over streams."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, ClockDomain, Const, Module, Shape, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from l1bn.rtl.config import UnitConfig
from l1bn.rtl.unit.axi import AxiNormUnit, stream_ports
from l1bn.rtl.unit.ports import Operation, axi_command_layout, context_layout
from l1bn.rtl.unit.registers import STEP, WORD, Register, address_bits, identity, register_map

#: Answers of AXI4-Lite.
OKAY, SLVERR = 0, 2


class RegisterBus(wiring.Component):
    """An AXI4-Lite subordinate: one write or read at a time, nothing combinational through it.

    Ports:
        s_axi_*: The bus, 32 bits wide. Writes are of whole words: strobes other than 0b1111 are
            answered with an error and change nothing.
        write, address, data: A write, for one clock.
        refused: The write must not be; combinational from ``write`` and ``address``.
        read_address, value: What is read, combinational.
        unknown: Nothing is at ``read_address``: the read is answered with an error, and 0.
    """

    def __init__(self, bits: int) -> None:
        super().__init__({**bus_ports(bits), **{
            "write": Out(1), "address": Out(bits - 2), "data": Out(WORD), "refused": In(1),
            "read_address": Out(bits - 2), "value": In(WORD), "unknown": In(1),
        }})  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        """Hold address and data until both are there; answer from registers."""
        m = Module()
        has_address = Signal()
        has_data = Signal()
        address = Signal.like(self.s_axi_awaddr, reset_less=True)
        data = Signal(WORD, reset_less=True)
        strobes = Signal(STEP, reset_less=True)
        answers = Signal()
        answer = Signal(2, reset_less=True)
        whole = Signal()
        runs = Signal()
        m.d.comb += [
            self.s_axi_awready.eq(~has_address), self.s_axi_wready.eq(~has_data),
            self.s_axi_bvalid.eq(answers), self.s_axi_bresp.eq(answer),
            whole.eq(strobes.all()), runs.eq(has_address & has_data & ~answers),
            self.write.eq(runs & whole), self.address.eq(address[2:]), self.data.eq(data),
        ]  # fmt: skip
        with m.If(self.s_axi_awvalid & ~has_address):
            m.d.sync += [has_address.eq(1), address.eq(self.s_axi_awaddr)]
        with m.If(self.s_axi_wvalid & ~has_data):
            m.d.sync += [has_data.eq(1), data.eq(self.s_axi_wdata), strobes.eq(self.s_axi_wstrb)]
        with m.If(runs):
            m.d.sync += [has_address.eq(0), has_data.eq(0), answers.eq(1), answer.eq(OKAY)]
            with m.If(self.refused | ~whole):
                m.d.sync += answer.eq(SLVERR)
        with m.Elif(self.s_axi_bready):
            m.d.sync += answers.eq(0)
        self._reads(m)
        return m

    def _reads(self, m: Module) -> None:
        asked = Signal()
        answers = Signal()
        address = Signal.like(self.s_axi_araddr, reset_less=True)
        value = Signal(WORD, reset_less=True)
        answer = Signal(2, reset_less=True)
        m.d.comb += [
            self.s_axi_arready.eq(~asked), self.s_axi_rvalid.eq(answers),
            self.s_axi_rdata.eq(value), self.s_axi_rresp.eq(answer),
            self.read_address.eq(address[2:]),
        ]  # fmt: skip
        with m.If(self.s_axi_arvalid & ~asked):
            m.d.sync += [asked.eq(1), address.eq(self.s_axi_araddr)]
        with m.If(asked & ~answers):
            m.d.sync += [answers.eq(1), value.eq(self.value), answer.eq(OKAY)]
            with m.If(self.unknown):
                m.d.sync += answer.eq(SLVERR)
        with m.Elif(answers & self.s_axi_rready):
            m.d.sync += [answers.eq(0), asked.eq(0)]


def bus_ports(bits: int) -> dict[str, wiring.Member]:
    """The ports of an AXI4-Lite subordinate with addresses of so many bits."""
    inputs = {
        "awaddr": bits, "awprot": 3, "awvalid": 1, "wdata": WORD, "wstrb": STEP, "wvalid": 1,
        "bready": 1, "araddr": bits, "arprot": 3, "arvalid": 1, "rready": 1,
    }  # fmt: skip
    outputs = {
        "awready": 1, "wready": 1, "bresp": 2, "bvalid": 1, "arready": 1, "rdata": WORD,
        "rresp": 2, "rvalid": 1,
    }  # fmt: skip
    ports = {f"s_axi_{name}": In(size) for name, size in inputs.items()}
    return ports | {f"s_axi_{name}": Out(size) for name, size in outputs.items()}


class RegisterNormUnit(wiring.Component):
    """A unit whose commands, scalars and contexts are registers of ``l1bn.rtl.unit.registers``.

    No output depends on an input within a clock. Writes to read-only registers, and while a command
    runs to anything but ``status`` and ``interrupt_enable``, are answered with an error and change
    nothing. So are reads of what is no register. A start clears ``done``.

    Ports:
        aclk, aresetn: Clock, and reset at 0, sampled by the clock.
        s_axi_*: AXI4-Lite.
        s_axis_*, m_axis_*: Elements and results, as ``AxiNormUnit``.
        irq: High while ``done`` is set and enabled.
    """

    def __init__(self, config: UnitConfig) -> None:
        self.config = config
        self.unit = AxiNormUnit(config)
        streams: dict[str, Any] = stream_ports(config)
        bus = bus_ports(address_bits(config))
        super().__init__({"aclk": In(1), "aresetn": In(1), **bus, **streams, "irq": Out(1)})

    def elaborate(self, platform: object) -> Module:
        """Connect the registers to the unit."""
        m = Module()
        # The unit brings its own clock domain, so the registers are beside it, not around it.
        m.submodules.unit = unit = self.unit
        m.submodules.registers = registers = Module()
        registers.domains.sync = domain = ClockDomain(local=True)
        registers.submodules.bus = bus = RegisterBus(address_bits(self.config))
        m.d.comb += [
            domain.clk.eq(self.aclk), domain.rst.eq(~self.aresetn),
            unit.aclk.eq(self.aclk), unit.aresetn.eq(self.aresetn),
        ]  # fmt: skip
        for inner, ports in (
            (unit, stream_ports(self.config)), (bus, bus_ports(address_bits(self.config))),
        ):  # fmt: skip
            for name, member in ports.items():
                ends = getattr(self, name), getattr(inner, name)
                target, source = ends if member.flow == Out else ends[::-1]
                m.d.comb += target.eq(source)
        self._registers(registers, bus)
        return m

    def _registers(self, m: Module, bus: RegisterBus) -> None:
        config, unit = self.config, self.unit
        registers = {r.name: r for r in register_map(config)}
        context = Signal(context_layout(config).size, reset_less=True)
        scalars = {
            name: Signal(config.width, name=name, reset_less=True)
            for name in ("gamma", "beta", "guess")
        }
        if config.counted:
            bits = config.log2_elements + 1
            scalars["count"] = Signal(bits, name="count", init=config.elements)
        operation = Signal(2)
        fill = Signal()
        busy = Signal()
        done = Signal()
        enable = Signal()
        dgamma = Signal.like(unit.dgamma, reset_less=True)
        dbeta = Signal.like(unit.dbeta, reset_less=True)
        status = Cat(busy, done, unit.command_error, unit.framing_error, unit.phase)
        values = {
            "status": status, "interrupt_enable": enable, "unit": Const(identity(config), WORD),
            "dgamma": dgamma, "dbeta": dbeta, "context": context,
            **{name: _as_read(registers[name], signal) for name, signal in scalars.items()},
        }  # fmt: skip
        m.d.comb += [self.irq.eq(done & enable), bus.value.eq(_read(m, registers, values, bus))]
        written = {r.name: _at(r, bus) for r in registers.values()}
        free = written["status"] | written["interrupt_enable"]
        start = bus.write & written["control"] & bus.data[8] & ~busy
        known = [_within(r, bus.read_address) for r in registers.values()]
        m.d.comb += bus.unknown.eq(~Cat(*known).any())
        writable = [written[r.name] for r in registers.values() if r.access != "ro"]
        m.d.comb += bus.refused.eq((busy & ~free) | ~Cat(*writable).any())
        with m.If(bus.write & ~busy):
            for name, signal in scalars.items():
                with m.If(written[name]):
                    m.d.sync += signal.eq(bus.data)
            for number in range(registers["context"].words):
                low = number * WORD
                with m.If(bus.address == registers["context"].address // STEP + number):
                    m.d.sync += context[low : low + WORD].eq(bus.data)
        with m.If(bus.write & written["interrupt_enable"]):
            m.d.sync += enable.eq(bus.data[0])
        with m.If(bus.write & written["status"] & bus.data[1]):
            m.d.sync += done.eq(0)
        with m.If(start):
            m.d.sync += [busy.eq(1), done.eq(0), operation.eq(bus.data), fill.eq(bus.data[2])]
        ends = Signal()
        m.d.comb += ends.eq(busy & unit.s_axis_cmd_tready)
        with m.If(ends):
            m.d.sync += [busy.eq(0), done.eq(1)]
        with m.If(ends & (operation == Operation.FORWARD)):
            m.d.sync += context.eq(unit.snapshot.as_value())
        with m.If(ends & (operation == Operation.BACKWARD)):
            m.d.sync += [dgamma.eq(unit.dgamma), dbeta.eq(unit.dbeta)]
        m.d.comb += [unit.restore.as_value().eq(context), unit.s_axis_cmd_tvalid.eq(busy)]
        self._command(m, {**scalars, "operation": operation, "fill": fill})

    def _command(self, m: Module, values: dict[str, Signal]) -> None:
        layout, word = axi_command_layout(self.config), self.unit.s_axis_cmd_tdata
        for name, _ in layout:
            field = layout[name]
            m.d.comb += word[field.offset : field.offset + field.width].eq(values[name])


def _at(register: Register, bus: RegisterBus) -> Value:
    """Whether a write is to this register."""
    return _within(register, bus.address)


def _within(register: Register, address: Value) -> Value:
    first = register.address // STEP
    last = first + register.words - 1
    return address == first if first == last else (address >= first) & (address <= last)


def _as_read(register: Register, value: Signal) -> Value:
    return value.as_signed() if register.signed else value


def _read(
    m: Module, registers: dict[str, Register], values: dict[str, Any], bus: RegisterBus
) -> Signal:
    """The word at the address that is read; 0 where there is none."""
    words: dict[int, Value] = {}
    for name, value in values.items():
        register = registers[name]
        # Sign-extended to its words where it is signed.
        wide = Signal(Shape(WORD * register.words, register.signed), name=f"read_{name}")
        m.d.comb += wide.eq(value)
        for number in range(register.words):
            low = number * WORD
            words[register.address // STEP + number] = wide[low : low + WORD]
    size = 1 << len(bus.read_address)
    picked = Signal(WORD, name="picked")
    m.d.comb += picked.eq(Array([words.get(i, Const(0)) for i in range(size)])[bus.read_address])
    return picked
