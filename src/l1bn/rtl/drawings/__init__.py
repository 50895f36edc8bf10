"""Pictures of a unit for its datasheet: blocks and timing, as SVG."""

from l1bn.rtl.drawings.pictures import write

__all__ = ["write"]
