"""Declare the operators that torchvision needs to be imported where its compiled ones do not load.

A wheel of torchvision holds them for one build of torch: beside another build, such as the CPU's,
they do not load, and ``import torchvision`` ends in "operator torchvision::nms does not exist".
transformers and timm import torchvision where it is installed. Import this module before them.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _compiled_operators_load() -> bool:
    """Whether torchvision is absent or brings operators that fit this build of torch."""
    spec = find_spec("torchvision")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        return True
    libraries = [path for folder in folders for path in Path(folder).glob("_C*")]
    try:
        for library in libraries:
            torch.ops.load_library(library)
    except OSError:
        return False
    return bool(libraries)


if not _compiled_operators_load():
    for _name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_name}", _SIGNATURE)
