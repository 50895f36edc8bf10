"""A model in several processes: gradients of all, and statistics of all where asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from l1bn.convert import convert_sync_
from l1bn.errors import UserError
from l1bn.recipes.models import BatchNormAct2d
from l1bn.recipes.models.norm import SyncBatchNormAct2d


def data_parallel(module: nn.Module) -> nn.Module:
    """Wrap a module so that its gradients are the mean over all processes.

    Running statistics are those of the first process.

    Args:
        module: What a training step calls.
    """
    return DistributedDataParallel(module)


def synchronise_(model: nn.Module, device: torch.device) -> None:
    """Let a model's normalization layers, of either norm, take the statistics of all processes.

    Raises:
        UserError: If it has layers of BatchNorm and is on a CPU.
    """
    plain: list[Any] = [m for m in model.modules() if type(m) is BatchNormAct2d]
    if plain and device.type == "cpu":
        raise UserError(
            "--sync-norm: torch.nn.SyncBatchNorm runs on no CPU; use --norm l1, or leave "
            "--sync-norm out"
        )
    for layer in plain:
        layer.__class__ = SyncBatchNormAct2d  # the same parameters, buffers and activation
        layer.process_group = None
    convert_sync_(model)
