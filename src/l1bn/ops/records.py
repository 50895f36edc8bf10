"""What a call normalizes with: records that go together from the function to the kernels."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from l1bn.activation import Activation


class Call(NamedTuple):
    """What forward and backward of a call share, beside its tensors of the input's size.

    Attributes:
        weight: γ or None.
        bias: β or None.
        activation: None or one of ``l1bn.activation``.
        eps: floor of the variance.

    Shape:
        - weight, bias: ``(C,)``
    """

    weight: Tensor | None
    bias: Tensor | None
    activation: Activation | None
    eps: float


class Context(Protocol):
    """What autograd hands to forward and backward of a node; each node adds what it leaves there.

    Attributes:
        needs_input_grad: of every argument of forward, whether it needs a gradient.
        saved_tensors: which of them are ``None`` depends on the call: only the node knows.
        keeps_output: whether the output is kept for backward, and so must not be edited in place.
    """

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Any, ...]
    keeps_output: bool

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...  # noqa: D102
    def mark_non_differentiable(self, *outputs: Tensor) -> None: ...  # noqa: D102
    def set_materialize_grads(self, value: bool) -> None: ...  # noqa: D102


class Running(NamedTuple):
    """Running statistics.

    Attributes:
        mean: moving average of the mean.
        var: moving average of ``max(σ² − eps, 0)·M/(M − 1)``.
        momentum: weight of a batch, a number or a tensor of one element; not used in evaluation.

    Shape:
        - mean, var: ``(C,)``
    """

    mean: Tensor
    var: Tensor
    momentum: float | Tensor = 0.0


class Branch(NamedTuple):
    """The first arguments of ``l1_batch_norm``, of one of two branches that are added."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    training: bool
    momentum: float | Tensor
    eps: float


class SavedOutput(NamedTuple):
    """What stands for x in backward where x is not kept.

    Attributes:
        y: output.
        residual: residual or None.
        positive: where x was at least its mean.
        scale: σ of the batch.

    Shape:
        - y, residual, positive: ``(N, C, *)``
        - scale: ``(C,)``
    """

    y: Tensor
    residual: Tensor | None
    positive: Tensor
    scale: Tensor
