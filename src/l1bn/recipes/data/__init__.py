"""Images: where they come from, and what a training step makes of them."""

from l1bn.recipes.data.images import ImageSet, Split, load_data

__all__ = ["ImageSet", "Split", "load_data"]
