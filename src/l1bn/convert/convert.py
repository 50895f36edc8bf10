"""convert_, revert_ and convert_sync_: change a model's normalization layers in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from l1bn.convert.example import Ran, verify
from l1bn.convert.fusion.search import fuse as fuse_blocks
from l1bn.convert.fusion.search import unfuse
from l1bn.convert.fusion.turned import watch
from l1bn.convert.record import forget, remember
from l1bn.convert.replace import (
    Change,
    become,
    describe,
    plan_to_bn,
    plan_to_l1,
    plan_to_sync,
)
from l1bn.model.refuse import check_model, check_ready
from l1bn.model.report import ConversionReport, Item
from l1bn.nn import L1SyncBatchNorm, L1SyncBatchNormAct2d

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_APART = "computed by itself: something is between, or nobody keeps what is added"
_SAME_OBJECTS = "parameters and buffers are the same objects: optimizers built before stay valid"


def convert_(model: nn.Module, example: object = None, fuse: bool = True) -> ConversionReport:
    """Turn a model's batch normalization into L1BN, in place.

    Converts ``nn.BatchNorm1d/2d/3d``, ``nn.SyncBatchNorm`` and timm's ``BatchNormAct2d``: these
    very types and no subclasses. A layer stays the same object with the same parameters,
    buffers, state-dict keys, hooks, parametrizations, mode, device and dtype; only its class
    changes. So evaluation outputs stay the same to the last bit, an optimizer built before stays
    valid, a layer used in several places stays shared, and the model itself may be a layer.

    In training, layers followed by an activation of ``l1bn.functional.ACTIVATIONS`` (SiLU, ReLU
    and others), directly or after an addition, are computed with it in one call: one pass over
    memory, and less kept for backward. The blocks that contain them go on running their own
    forward, line by line; what can be one call is decided each time it is reached. So hooks,
    replaced parts, edits, pickling and copying work as before, and evaluation without gradients is
    the same to the last bit.

    Args:
        model: any module. It may be on any device and in any mode.
        example: input for a check: copies of the model run it, fused and unfused, and outputs
            and gradients must agree; the report then says what ran in one call. A tensor, a tuple
            of positional arguments, or a mapping of keyword arguments. The model itself does not
            run.
        fuse: ``False`` leaves every block as it is.

    Returns:
        What was converted, fused and left, and why. ``print`` it.

    Raises:
        TypeError: not a module.
        ValueError: a compiled, scripted or distributed-wrapped model, or an example that the
            model cannot run. The model is as it was.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> print(convert_(model))
        convert_: Sequential
          1 converted
              1 × BatchNorm2d → L1BatchNorm2d
          1 fused
              1 × L1BatchNorm2d → ReLU
          note: parameters and buffers are the same objects: optimizers built before stay valid

    Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
    """
    check_model(model, "convert_")
    if example is not None:
        check_ready(model, "convert_")
    changes, left = plan_to_l1(model)
    report = _report("convert_", model, changes, left)
    before = [(module, type(module)) for module in model.modules()]
    try:
        unfuse(model)
        for _, module, cls in changes:
            become(module, cls)
        if fuse:
            report.fused, report.not_fused = fuse_blocks(model)
        if example is not None:
            _tell(report, verify(model, example))
    except BaseException:
        for module, cls in before:
            module.__class__ = cls
        for module, _ in before:
            watch(module)
        raise
    remember(model)
    if changes:
        report.notes.append(_SAME_OBJECTS)
    own = sum(not module.track_running_stats for _, module, _ in changes)
    if own:
        report.notes.append(
            f"{own} of them evaluate with the statistics of the batch "
            "(track_running_stats=False): there evaluation changes too"
        )
    return report


def revert_(model: nn.Module) -> ConversionReport:
    """Turn a model's L1BN layers back into batch normalization, in place; undoes fusion too.

    Works on every L1BN layer, converted or built as one, also after the model was copied, pickled
    or trained. Parameters and buffers stay the same objects. ``L1BatchNormAct2d`` becomes timm's
    ``BatchNormAct2d`` where timm is installed, ``L1SyncBatchNorm`` becomes ``nn.SyncBatchNorm``.

    Args:
        model: any module.

    Returns:
        What was reverted and un-fused. ``print`` it.

    Raises:
        TypeError: not a module.
        ValueError: a compiled, scripted or distributed-wrapped model. It is as it was.
    """
    check_model(model, "revert_")
    changes, left = plan_to_bn(model)
    report = _report("revert_", model, changes, left)
    report.fused = unfuse(model)
    for _, module, cls in changes:
        become(module, cls)
        module.__dict__.pop("backend", None)
        if isinstance(module, nn.SyncBatchNorm):
            module.__dict__.setdefault("process_group", None)
    forget(model)
    return report


def convert_sync_(model: nn.Module, process_group: ProcessGroup | None = None) -> ConversionReport:
    """Turn a model's L1BN layers into ``l1bn.L1SyncBatchNorm``, in place.

    ``L1BatchNormAct2d`` becomes ``l1bn.L1SyncBatchNormAct2d`` and keeps its activation.

    The counterpart of ``nn.SyncBatchNorm.convert_sync_batchnorm``, which must not be used on
    L1BN layers: it would silently rebuild them as batch normalization. Call it before wrapping
    the model in DistributedDataParallel. ``revert_`` then gives ``nn.SyncBatchNorm``.

    Args:
        model: model with L1BN layers.
        process_group: group whose batches are normalized together, ``None`` for all processes.

    Returns:
        What was converted. ``print`` it.

    Raises:
        TypeError: not a module.
        ValueError: a compiled, scripted or distributed-wrapped model. It is as it was.
    """
    check_model(model, "convert_sync_")
    changes, left = plan_to_sync(model)
    report = _report("convert_sync_", model, changes, left)
    for _, module, cls in changes:
        become(module, cls)
        assert isinstance(module, (L1SyncBatchNorm, L1SyncBatchNormAct2d))
        module.process_group = process_group
    remember(model)
    return report


def _tell(report: ConversionReport, ran: Ran | None) -> None:
    """Correct what was foreseen by what ran on the example, and say what it keeps."""
    if ran is None:
        return
    calls = ran.together
    kept, unfused = (f"{n / 1e6:.2f} MB" for n in (ran.kept, ran.kept_unfused))
    report.notes.append(
        f"a step on the example keeps {kept} for backward, {unfused} without fusion"
    )
    fused = [item for item in report.fused if calls.get(item.path)]
    for item in report.fused:
        if item.path not in calls:
            report.not_fused.append(Item(item.path, "the example does not reach it"))
        elif not calls[item.path]:
            report.not_fused.append(Item(item.path, _APART))
    report.fused = fused


def _report(
    verb: str, model: nn.Module, changes: list[Change], left: list[Item]
) -> ConversionReport:
    converted = [Item(path, describe(module, cls)) for path, module, cls in changes]
    return ConversionReport(verb, type(model).__name__, converted, left)
