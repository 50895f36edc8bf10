"""Standard cells, netlists, timing, synthesis and power."""
