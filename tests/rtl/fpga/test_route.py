"""The smallest unit on an FPGA: its cells give every bit, and it can be placed and routed."""

from __future__ import annotations

import shutil

import pytest

from l1bn import tools
from l1bn.rtl.cache import Cache
from l1bn.rtl.config import UnitConfig
from l1bn.rtl.fpga import route
from l1bn.rtl.fpga.family import FAMILIES
from l1bn.rtl.unit import emit
from l1bn.rtl.verify import stimulus, testbench

UNIT = UnitConfig(width=4, elements=16)
ICE40 = FAMILIES["ice40"]
HX8K = ICE40.targets[0]

needs_flow = pytest.mark.skipif(
    tools.missing("yosys", "iverilog", "nextpnr-ice40") is not None,
    reason=str(tools.missing("yosys", "iverilog", "nextpnr-ice40")),
)


@needs_flow
@pytest.mark.timeout(120)
def test_cells_are_bit_exact_and_routed(tmp_path):
    cache = Cache(tmp_path)
    netlist = route.synthesize(emit.verilog_text(UNIT), UNIT.name, ICE40, HX8K, cache=cache)
    found = netlist.resources()
    assert found.luts > 100
    assert found.flip_flops > 100
    assert (found.dsps, found.block_rams) == (0, 0)
    sources = [netlist.verilog(), ICE40.models()]
    run = testbench.run(UNIT, sources, stimulus.extremes(UNIT), activity=True)
    assert netlist.moved_pins(run.phases["SCALARS"]) > run.clocks
    clock = route.routed_mhz(netlist, HX8K, seed=1, cache=cache)
    assert 5 < clock < route.TARGET_MHZ


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_missing_router_is_named(name, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(tools.ToolError, match=r"nextpnr-.*: not found; install with: "):
        FAMILIES[name].router()
