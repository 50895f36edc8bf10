"""The relation of our layer to timm's, which may be loaded or not."""

from __future__ import annotations

import sys

from torch import nn

_HOME = "timm.layers.norm_act"


def join_timm(cls: type[nn.Module], base: type[nn.Module]) -> None:
    """Make ``cls`` a subclass of timm's ``BatchNormAct2d``, where timm is loaded.

    timm's functions treat a layer with an activation as such only where it is one of theirs: they
    replace any other BatchNorm2d by a layer without. An import of timm would be a high price for
    everybody else, so the base joins when timm is there.

    Args:
        cls: our layer with an activation.
        base: its base without timm.
    """
    theirs = getattr(sys.modules.get(_HOME), "BatchNormAct2d", None)
    if theirs is not None and theirs not in cls.__mro__:
        cls.__bases__ = (base, theirs)
