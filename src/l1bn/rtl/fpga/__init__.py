"""Units on FPGAs: synthesis by yosys, placement and routing by nextpnr, activity by Icarus."""
