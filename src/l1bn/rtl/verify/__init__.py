"""Known answers, stimuli and test benches that hold the unit to the integer judge."""
