"""Carrying a pretrained network's scale over from BN to L1BN."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from l1bn.activation import activate
from l1bn.model.layers import LAYERS, bare_type
from l1bn.model.refuse import check_model, check_ready
from l1bn.model.report import Item, group
from l1bn.nn.batchnorm import _L1BatchNorm
from l1bn.ops import formula

_DONE = "_l1bn_calibrated"

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Calibration:
    """One calibrated layer.

    Attributes:
        path: the layer's name in the model.
        smallest: smallest factor applied to γ over the channels.
        median: median factor.
        largest: largest factor.
    """

    path: str
    smallest: float
    median: float
    largest: float


@dataclass
class CalibrationReport:
    """What ``l1bn.calibrate_`` did. ``print(report)`` shows it.

    Attributes:
        model: class of the model.
        batches: number of batches measured.
        calibrated: layers rescaled, with the range of their factors.
        left: layers that were not, and why.
    """

    model: str
    batches: int
    calibrated: list[Calibration] = field(default_factory=list)
    left: list[Item] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [
            f"calibrate_: {self.model}",
            f"  {len(self.calibrated)} calibrated on {self.batches} "
            + ("batch" if self.batches == 1 else "batches"),
        ]
        if self.calibrated:
            title = "factor on γ"
            width = max(len(title), *(len(row.path) for row in self.calibrated))
            parts.append(f"      {title:<{width}}  smallest  median  largest")
            parts += [
                f"      {row.path:<{width}}  {row.smallest:8.3f}  {row.median:6.3f}  "
                f"{row.largest:7.3f}"
                for row in self.calibrated
            ]
        if self.left:
            parts += [f"  {len(self.left)} left as they are", *group(self.left, True)]
        return "\n".join(parts)


def calibrate_(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    forward: Callable[[nn.Module, Batch], object] | None = None,
    max_batches: int | None = None,
    progress: bool = True,
) -> CalibrationReport:
    r"""Rescale converted layers so that a pretrained network computes the same in training mode.

    A layer pretrained as BN divides a batch by its standard deviation ``σ₂``, as L1BN by
    ``σ₁ = max(√(π/2)·mean|x - μ|, √ε)``. On data that are not Gaussian
    the two differ, by a factor per channel that this function measures and moves into γ:

    .. math::
        r = \exp(\mathrm{mean}\log(σ_1/σ_2)), \quad γ ← r\,γ, \quad
        \mathrm{running\_var} ← r^2(\mathrm{running\_var} + ε) - ε

    What is kept:

    - *Evaluation* exactly, up to rounding, as both changes cancel there.
    - *Training mode*, up to how much ``σ₁/σ₂`` of a batch differs from its mean over the
      batches. Without calibration every layer is off by the whole factor.

    While measuring, the layers compute BN in training mode, so that each sees the inputs that
    the pretrained network gives it, without gradients. Parameters stay the same objects, the
    mode of every module is restored, and where anything fails, nothing is changed.

    Call it once, after ``l1bn.convert_`` and before fine-tuning. Training from scratch needs
    no calibration.

    Args:
        model: converted model with pretrained BN weights.
        batches: inputs like those of training, 10 to 50 batches of the training size. Of a list
            or tuple, such as ``(images, labels)``, the first element is the input; a mapping
            gives keyword arguments.
        forward: called as ``forward(model, batch)`` in place of the rule above.
        max_batches: stop after so many batches.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        The factors, and the layers left with the reason. ``print`` it.

    Raises:
        TypeError: not a module.
        ValueError: a wrapped model, no L1BN layer, no batch, layers calibrated before, or an
            input that is not finite.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from l1bn import convert_
        >>> model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(2))
        >>> report = convert_(model)
        >>> _ = torch.manual_seed(0)
        >>> print(calibrate_(model, [torch.randn(64, 2, 8, 8)]))
        calibrate_: Sequential
          1 calibrated on 1 batch
              factor on γ  smallest  median  largest
              1               0.978   0.978    0.989

    Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769, for the statistic.
    """
    check_model(model, "calibrate_")
    check_ready(model, "calibrate_")
    every, layers, left = _plan(model)
    run = forward or _default_forward
    count = 0
    with _preserved(model), torch.no_grad(), _as_bn(every):
        model.train()
        for batch in _shown(itertools.islice(batches, max_batches), batches, max_batches, progress):
            run(model, batch)
            count += 1
    if count == 0:
        raise ValueError("calibrate_: expected at least one batch, got none")
    return _apply(CalibrationReport(type(model).__name__, count, [], left), layers)


@dataclass
class _Layer:
    """A layer and the mean of its log ratio so far."""

    path: str
    module: _L1BatchNorm
    total: Tensor | None = field(default=None)
    calls: int = 0

    def measure(self, x: Tensor) -> None:
        """Add the statistics of one input."""
        wide = x.to(formula.accumulate_dtype(x.dtype))
        dims = formula.reduce_dims(x)
        centred = wide - wide.mean(dims, keepdim=True)
        eps = self.module.eps
        l1 = (formula.K * centred.abs().mean(dims)).clamp_min(math.sqrt(eps))
        l2 = (centred.square().mean(dims) + eps).sqrt()
        ratio = (l1.double() / l2.double()).log()
        if not bool(ratio.isfinite().all()):
            raise ValueError(
                f"calibrate_: expected finite inputs, got inf or NaN at layer {self.path!r} "
                f"(input of shape {tuple(x.shape)}, {x.dtype}): check the batches; the model is "
                "unchanged"
            )
        self.total = ratio if self.total is None else self.total + ratio
        self.calls += 1

    def factor(self) -> Tensor:
        """Factor on γ, large enough that the running variance does not become negative."""
        assert self.total is not None
        factor = (self.total / self.calls).exp()
        running_var = self.module.running_var
        if running_var is not None:
            eps = self.module.eps
            factor = factor.maximum((eps / (running_var.double() + eps)).sqrt())
        return factor


def _plan(model: nn.Module) -> tuple[list[_Layer], list[_Layer], list[Item]]:
    """Every L1BN layer, those that can be rescaled, and those left with the reason."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found = [(p, m) for p, m in model.named_modules() if isinstance(m, _L1BatchNorm)]
    if not found:
        raise ValueError(
            f"calibrate_: expected a model with L1BN layers, got {type(model).__name__} with "
            "none: run convert_ on it first"
        )
    every = [_Layer(path, module) for path, module in found]
    reasons = [_why_not(layer.module, owners) for layer in every]
    layers = [layer for layer, reason in zip(every, reasons, strict=True) if reason is None]
    left = [Item(at.path, why) for at, why in zip(every, reasons, strict=True) if why is not None]
    done = [layer.path for layer in layers if _DONE in layer.module.__dict__]
    if done:
        raise ValueError(
            f"calibrate_: expected layers that were not calibrated yet, got {len(done)} that were "
            f"(the first is {done[0]!r}): a second factor would spoil training mode; load the BN "
            "checkpoint into a freshly converted model to calibrate on other batches"
        )
    return every, layers, left


def _why_not(module: _L1BatchNorm, owners: Mapping[int, int]) -> str | None:
    if bare_type(module) not in LAYERS:
        return f"{type(module).__name__}: a subclass of an L1BN layer, which may do more"
    if parametrize.is_parametrized(module):
        return "its parameters are parametrized"
    if module.weight is None:
        return "has no γ to rescale (affine=False)"
    if owners[id(module.weight)] > 1:
        return "shares its γ with another layer"
    return None


@contextlib.contextmanager
def _preserved(model: nn.Module) -> Iterator[None]:
    """Give every module its mode and its buffers back."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@contextlib.contextmanager
def _as_bn(layers: list[_Layer]) -> Iterator[None]:
    """Let each layer compute BN, as when it was pretrained, and measure what goes into it."""
    try:
        for layer in layers:
            layer.module.override = functools.partial(_measured_bn, layer)
        yield
    finally:
        for layer in layers:
            layer.module.__dict__.pop("override", None)


def _measured_bn(
    layer: _Layer, x: Tensor, activation: str | None, residual: Tensor | None
) -> Tensor:
    module = layer.module
    layer.measure(x)
    use_batch = module.training or module.running_mean is None
    y = F.batch_norm(
        x,
        None if use_batch else module.running_mean,
        None if use_batch else module.running_var,
        module.weight,
        module.bias,
        use_batch,
        0.0,
        module.eps,
    )
    return activate(y if residual is None else y + residual, activation)


def _default_forward(model: nn.Module, batch: object) -> object:
    first = next(itertools.chain(model.parameters(), model.buffers()))

    def move(value: object) -> object:
        return value.to(first.device) if isinstance(value, Tensor) else value

    if isinstance(batch, Mapping):
        return model(**{name: move(value) for name, value in batch.items()})
    return model(move(batch[0] if isinstance(batch, (list, tuple)) else batch))


def _shown(
    chosen: Iterator[Batch], batches: Iterable[Batch], max_batches: int | None, progress: bool
) -> Iterable[Batch]:
    if not progress or not sys.stderr.isatty():
        return chosen
    from rich.console import Console
    from rich.progress import track

    total = len(batches) if isinstance(batches, Sized) else max_batches
    if total is not None and max_batches is not None:
        total = min(total, max_batches)
    return track(chosen, "calibrate_", total=total, console=Console(stderr=True), transient=True)


@torch.no_grad()
def _apply(report: CalibrationReport, layers: list[_Layer]) -> CalibrationReport:
    """Write every new value, after all of them are known."""
    writes: list[tuple[Tensor, Tensor]] = []
    reached = [layer for layer in layers if layer.calls]
    for layer in reached:
        module, factor = layer.module, layer.factor()
        writes.append((module.weight, module.weight.double() * factor))
        if module.running_var is not None:
            variance = factor.square() * (module.running_var.double() + module.eps) - module.eps
            writes.append((module.running_var, variance.clamp_min(0)))
        low, middle, high = (
            float(value) for value in (factor.min(), factor.median(), factor.max())
        )
        report.calibrated.append(Calibration(layer.path, low, middle, high))
    for target, value in writes:
        target.copy_(value)
    for layer in reached:
        layer.module.__dict__[_DONE] = True
    report.left += [
        Item(layer.path, "the batches did not reach it") for layer in layers if not layer.calls
    ]
    return report
