"""The skid buffer is a queue of two words: nothing lost, doubled, reordered or moved in a stall."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal

from l1bn.rtl.formal.monitors.base import Monitor
from l1bn.rtl.unit.axi import SkidBuffer


class BufferMonitor(Monitor):
    """A ``SkidBuffer`` beside a queue that is written down plainly."""

    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        self.buffer = SkidBuffer(bits)

    def build(self, m: Module) -> None:
        """Push and pop a queue by the handshakes alone, and compare its head."""
        m.submodules.dut = buffer = self.buffer
        self.release(m, buffer.word_in, buffer.valid_in, buffer.ready_out)
        first, second = Signal.like(buffer.word_in), Signal.like(buffer.word_in)
        count = Signal(range(3))
        pushed, popped = Signal(), Signal()
        m.d.comb += [
            pushed.eq(buffer.valid_in & buffer.ready_in),
            popped.eq(buffer.valid_out & buffer.ready_out),
        ]
        kept = Signal(range(3))
        head = Signal.like(first)
        m.d.comb += [kept.eq(count - popped), head.eq(Mux(popped, second, first))]
        m.d.sync += [
            count.eq(kept + pushed),
            first.eq(Mux(kept == 0, buffer.word_in, head)),
            second.eq(Mux(pushed & (kept == 1), buffer.word_in, second)),
        ]
        self.claim(m, "holds_two_words", count <= 2)
        self.claim(m, "offers_what_it_holds", buffer.valid_out == (count != 0))
        self.claim(m, "takes_while_there_is_room", buffer.ready_in == (count < 2))
        self.claim(m, "oldest_word_first", (count == 0) | (buffer.word_out == first))
        self.claim(m, "second_word_kept", (count < 2) | (buffer.caught == second))
        was = Signal.like(buffer.word_out)
        stalled = Signal()
        m.d.sync += [was.eq(buffer.word_out), stalled.eq(buffer.valid_out & ~buffer.ready_out)]
        still = buffer.valid_out & (buffer.word_out == was)
        self.claim(m, "still_in_a_stall", ~stalled | still)
