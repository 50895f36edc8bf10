"""L1BN whose statistics span the processes of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from l1bn.activation import Activation
from l1bn.functional import _check_residual
from l1bn.nn.batchnorm import _L1BatchNorm
from l1bn.nn.batchnorm_act import L1BatchNormAct2d
from l1bn.ops.records import Call, Running
from l1bn.ops.running import update_running_statistics
from l1bn.ops.sync import sync_train
from l1bn.ops.tracing import is_recomputed

if TYPE_CHECKING:  # a torch without torch.distributed has none
    from torch.distributed import ProcessGroup
    from torch.types import Device


class _Synchronised(_L1BatchNorm):
    """Statistics over a group of processes, for whatever normalization layer stands behind."""

    process_group: ProcessGroup | None = None
    # TorchScript has no type for it, and what it compiles runs in one process.
    __jit_ignored_attributes__ = ("process_group",)

    def _spans_processes(self) -> bool:
        training = self.training or (self.running_mean is None and self.running_var is None)
        return (
            training
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size(self.process_group) > 1
        )

    def _normalize(
        self,
        input: Tensor,
        activation: Activation | None = None,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        if self.override is not None or not self._spans_processes():
            return super()._normalize(input, activation, residual, mask)
        self._check_input_dim(input)
        if input.shape[1] != self.num_features:
            raise ValueError(
                f"expected {self.num_features} channels, got {input.shape[1]} in an input of "
                f"shape {tuple(input.shape)}"
            )
        if mask is not None:
            raise ValueError(
                "expected no mask while statistics span processes, got one: a mask is served by "
                "layers that are not synchronised"
            )
        if residual is not None:
            _check_residual(residual, input)
        group = self.process_group or dist.group.WORLD
        call = Call(self.weight, self.bias, activation, self.eps)
        y, mean, scale, count = sync_train(input, residual, call, group)
        if self.training and self.track_running_stats and not is_recomputed():
            self._track(mean, scale, count)
        return y

    def _track(self, mean: Tensor, scale: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        running = Running(self.running_mean, self.running_var, self._update_factor())
        update_running_statistics(running, mean, scale, count, self.eps)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class L1SyncBatchNorm(_Synchronised, nn.BatchNorm2d):
    """L1-norm batch normalization with statistics over all processes of a group.

    Counterpart of ``torch.nn.SyncBatchNorm``. Works on every device that the group's backend
    serves (gloo on CPU too), and with batches of different sizes. Without a process group, or
    with one process, and in evaluation, it is the ordinary layer.

    It is an ``torch.nn.BatchNorm2d`` for what asks, whatever the input's dimensions: loops
    that freeze or collect normalization layers find it. It is no ``nn.SyncBatchNorm``, since
    DistributedDataParallel refuses all of those on CPU.

    Args:
        num_features: channels ``C``.
        eps: floor of the variance.
        momentum: weight of a batch in the running statistics, ``None`` for a cumulative average.
        affine: learn γ (``weight``) and β (``bias``).
        track_running_stats: keep running statistics for evaluation.
        process_group: group whose batches are normalized together, ``None`` for all processes.
        device: device of parameters and buffers.
        dtype: dtype of parameters and buffers.

    Shape:
        - Input, output: ``(N, C, *)``

    Raises:
        ValueError: fewer than two dimensions, other channels, another device, or one value per
            channel in a single process.

    Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: ProcessGroup | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype
        )
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")


class L1SyncBatchNormAct2d(_Synchronised, L1BatchNormAct2d):
    """``L1BatchNormAct2d`` with statistics over all processes of a group.

    Takes the arguments of ``L1BatchNormAct2d``; ``process_group`` is an attribute, ``None``
    for all processes. ``l1bn.convert_sync_`` makes it.

    Shape:
        - Input, residual, output: ``(N, C, H, W)``

    Raises:
        ValueError: as ``L1SyncBatchNorm``.

    Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
    """
