"""The hardware unit itself, in Amaranth."""
