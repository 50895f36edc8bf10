"""Models that must not be changed in place, each with the way out."""

from __future__ import annotations

import itertools
import sys

import torch
from torch import nn
from torch.nn.parameter import is_lazy

# Classes by module and name: looked up where they are loaded, never imported.
_WRAPPERS = (
    ("torch.nn.parallel.distributed", "DistributedDataParallel"),
    ("torch.nn.parallel.data_parallel", "DataParallel"),
    ("torch.distributed.fsdp", "FullyShardedDataParallel"),
    ("torch.distributed.fsdp", "FSDPModule"),
)


def check_model(model: object, verb: str) -> None:
    """Raise unless ``model`` is a module that can be changed in place.

    Args:
        model: what the user passed.
        verb: name of the function, for the message.

    Raises:
        TypeError: not a module.
        ValueError: a compiled, scripted or wrapped model, or one that contains such a part.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{verb}: expected a torch.nn.Module, got {type(model).__name__}")
    for path, module in model.named_modules():
        where = f" at {path!r}" if path else ""
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{verb}: expected a Python module, got a ScriptModule{where}: its layers cannot "
                f"be changed; call {verb} on the Python model, then script or trace it again"
            )
        if _is(module, "torch._dynamo.eval_frame", "OptimizedModule"):
            raise ValueError(
                f"{verb}: expected a plain module, got one compiled by torch.compile{where}: call "
                f"{verb} on the original (compiled._orig_mod), then torch.compile it again"
            )
        for home, name in _WRAPPERS:
            if _is(module, home, name):
                raise ValueError(
                    f"{verb}: expected a plain module, got {name}{where}: the wrapper has set up "
                    f"its own state for these layers; call {verb} on the model first and wrap "
                    "it afterwards"
                )


def _is(module: nn.Module, home: str, name: str) -> bool:
    cls = getattr(sys.modules.get(home), name, None)
    return isinstance(cls, type) and isinstance(module, cls)


def check_ready(model: nn.Module, verb: str) -> None:
    """Raise where running the model would create parameters, and so change it.

    Args:
        model: the model.
        verb: name of the function, for the message.

    Raises:
        ValueError: the model has lazy layers that never ran.
    """
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    for name, tensor in tensors:
        if is_lazy(tensor):
            raise ValueError(
                f"{verb}: expected a model whose parameters exist, got a lazy one at {name!r}: "
                "run the model once first"
            )
