"""Fusion: a block's own forward, in which a layer and its activation may become one call."""
