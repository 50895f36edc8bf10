"""Verilog of a unit, and what says how to use it."""

from l1bn.rtl.unit.emit.verilog import (
    Written,
    describe,
    describe_interface,
    formats,
    verilog_text,
    write,
)

__all__ = ["Written", "describe", "describe_interface", "formats", "verilog_text", "write"]
