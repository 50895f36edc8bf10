"""A pytest plugin: Triton's interpreter without patching its language again at every inner call.

Each call of a device function patches all of ``triton.language`` anew, which takes twice the time
of the arithmetic. Once is enough in a process that only interprets.
"""

from __future__ import annotations

import os
from types import FunctionType

os.environ["TRITON_INTERPRET"] = "1"

import triton.language as tl
from triton.runtime import interpreter

_patch = interpreter._patch_lang
_patched: set[frozenset[int]] = set()


class _Kept:
    def restore(self) -> None:
        """Leave the language patched."""


def _patch_once(fn: FunctionType) -> _Kept:
    languages = frozenset(id(v) for v in fn.__globals__.values() if v is tl or v is tl.core)
    if languages not in _patched:
        _patched.add(languages)
        _patch(fn)
    return _Kept()


interpreter._patch_lang = _patch_once
