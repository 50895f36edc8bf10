"""Drop-in L1BN layers: nn.BatchNorm1d/2d/3d with the mean absolute deviation."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm

from l1bn.activation import Activation, activate_over
from l1bn.functional import Branch, l1_batch_norm
from l1bn.ops import scripted
from l1bn.ops.running import count_batch
from l1bn.ops.tracing import is_exporting, is_recomputed, is_traced

_EXPORTED = (
    "{} is exported in training mode: the program will normalize with the statistics of the batch "
    "for good, since tools that switch one to evaluation know batch_norm only. "
    "Export model.eval(); for quantization-aware training call l1bn.revert_(model) first"
)


#: Input, running mean and variance, γ, β, whether the batch is normalized with its own statistics,
#: momentum and eps.
_Arguments = tuple[
    Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, bool, float | Tensor, float
]


class _L1BatchNorm(_BatchNorm):
    """What the L1BN layers share: BatchNorm's state, options and modes."""

    #: Name of the backend that computes training and evaluation, ``"auto"`` for the best.
    backend: str = "auto"
    #: Computes in the layer's place, for a while: called with the input, the activation's name or
    #: ``None``, and the residual or ``None``. ``l1bn.calibrate_`` measures in it.
    override: Callable[[Tensor, Activation | None, Tensor | None], Tensor] | None = None

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize ``input`` over every dimension but the channel's.

        Args:
            input: what to normalize.
            mask: in training, elements that the statistics are taken over, as
                ``l1bn.l1_batch_norm`` has it.
        """
        if torch.jit.is_scripting():
            return self._scripted(input, mask)
        if isinstance(input, Proxy):
            return _leaf(self, input, mask)
        return self._normalize(input, mask=mask)

    def _normalize(
        self,
        input: Tensor,
        activation: Activation | None = None,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        if self.override is not None:
            return self.override(input, activation, residual)
        arguments = self._arguments(input)
        if not self.training and residual is mask is None:
            found = self._as_batch_norm(arguments)
            if found is not None:
                return activate_over(found, activation)
        y = l1_batch_norm(
            *arguments,
            activation=activation,
            residual=residual,
            mask=mask,
            backend=self.backend,
        )
        self._count()
        return y

    def _scripted(self, input: Tensor, mask: Tensor | None) -> Tensor:
        """What TorchScript compiles: plain operations in the place of backends."""
        if mask is not None:
            raise ValueError("expected no mask in TorchScript, got one: call the Python layer")
        self._check_input_dim(input)
        running_mean, running_var = self.running_mean, self.running_var
        if not self.training and running_mean is not None and running_var is not None:
            return F.batch_norm(
                input, running_mean, running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        y, mean, scale = scripted.train(input, self.weight, self.bias, self.eps)
        batches = self.num_batches_tracked
        if self.training and self.track_running_stats and batches is not None:
            batches.add_(1)
            factor = batches.reciprocal()
            if self.momentum is not None:
                factor = torch.full_like(factor, self.momentum)
            if running_mean is not None and running_var is not None:
                count = input.numel() // input.shape[1]
                scripted.update(
                    running_mean,
                    running_var,
                    mean=mean,
                    scale=scale,
                    count=count,
                    momentum=factor,
                    eps=self.eps,
                )
        return y

    def _as_batch_norm(self, arguments: _Arguments) -> Tensor | None:
        """Evaluation without gradients, by BatchNorm's own operator and as quick a call.

        None where ``l1_batch_norm`` has to look, or to say what is wrong.
        """
        x, mean, var, weight, bias, uses_batch, _, eps = arguments
        if torch.is_grad_enabled() or uses_batch or self.backend != "auto" or is_traced():
            return None
        try:
            return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
        except RuntimeError:
            return None

    def _branch(self, input: Tensor) -> Branch:
        """A call in the present mode, to be added to another one's."""
        return Branch(*self._arguments(input))

    def _arguments(self, input: Tensor) -> _Arguments:
        """The first arguments of ``l1bn.functional.l1_batch_norm`` in the present mode."""
        if not isinstance(input, Tensor):
            raise TypeError(f"expected input to be a torch.Tensor, got {type(input).__name__}")
        self._check_input_dim(input)
        training = self.training
        weight, bias, mean, var = self._tensors()
        if not training:
            return input, mean, var, weight, bias, mean is None and var is None, 0.0, self.eps
        # In training the averages are passed only where they are to be updated. A checkpoint that
        # is computed again has moved them the first time.
        if not self.track_running_stats or is_recomputed():
            return input, None, None, weight, bias, True, 0.0, self.eps
        return input, mean, var, weight, bias, True, self._update_factor(), self.eps

    def _tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """γ, β and the running statistics, as ``self.weight`` and so on would find them.

        nn.Module finds them by name in Python, which for all costs more than a small kernel.
        """
        own = self.__dict__  # where tools lay what they want the layer to see instead
        if not ("weight" in own or "bias" in own or "running_mean" in own or "running_var" in own):
            try:
                weight, bias = self._parameters["weight"], self._parameters["bias"]
                return weight, bias, self._buffers["running_mean"], self._buffers["running_var"]
            except KeyError:  # parametrized, for instance
                pass
        return self.weight, self.bias, self.running_mean, self.running_var

    def _count(self) -> None:
        """Count a batch, after its call: an input that raises leaves no trace."""
        if self.training and self.track_running_stats and not is_recomputed():
            batches = self._buffers.get("num_batches_tracked")
            if batches is not None:
                count_batch(batches)
            if is_exporting() and not torch.compiler.is_dynamo_compiling():  # it traces no warning
                warnings.warn(_EXPORTED.format(type(self).__name__), stacklevel=2)

    def _update_factor(self) -> float | Tensor:
        """Momentum, or for ``momentum=None`` one over the number of batches, this one included."""
        if self.momentum is not None:
            return self.momentum
        if self.num_batches_tracked is None:
            return 0.0
        # A tensor: reading its value would synchronise the device and break a compiled graph.
        return (self.num_batches_tracked + 1).reciprocal()

    def extra_repr(self) -> str:
        """BatchNorm's own text, with the backend where one was chosen."""
        text = super().extra_repr()
        return text if self.backend == "auto" else f"{text}, backend={self.backend!r}"


def _leaf(layer: nn.Module, input: Proxy, *others: object) -> Proxy:
    """One call of the layer in the graph that torch.fx records, as layers of torch.nn are.

    Their tracers take a layer for one whose class was defined in ``torch.nn``.
    """
    while others and others[-1] is None:
        others = others[:-1]
    path = input.tracer.path_of_module(layer)  # type: ignore[attr-defined]
    return input.tracer.create_proxy("call_module", path, (input, *others), {})


class L1BatchNorm1d(_L1BatchNorm, nn.BatchNorm1d):
    """L1-norm batch normalization of a 2D or 3D input, drop-in for ``torch.nn.BatchNorm1d``.

    Arguments, modes and errors are those of ``L1BatchNorm2d``.

    Shape:
        - Input, output: ``(N, C)`` or ``(N, C, L)``

    Examples:
        >>> import torch
        >>> y = L1BatchNorm1d(8)(torch.randn(16, 8))

    Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
    """


class L1BatchNorm2d(_L1BatchNorm, nn.BatchNorm2d):
    """L1-norm batch normalization of a 4D input, drop-in for ``torch.nn.BatchNorm2d``.

    Same arguments, buffers, state-dict keys, modes and errors as BatchNorm. In training a channel
    is divided by ``max(√(π/2)·mean|x − mean(x)|, √eps)`` in place of the standard deviation, with
    the exact gradient. Evaluation is ``F.batch_norm`` exactly, so that checkpoints and
    deployment tools of BatchNorm work unchanged.

    Args:
        num_features: channels ``C``.
        eps: floor of the variance.
        momentum: weight of a batch in the running statistics, ``None`` for a cumulative average.
        affine: learn γ (``weight``) and β (``bias``).
        track_running_stats: keep running statistics for evaluation.
        device: device of parameters and buffers.
        dtype: dtype of parameters and buffers.

    Attributes:
        backend: ``"auto"`` or a backend's name, see ``l1bn doctor``.

    Shape:
        - Input, output: ``(N, C, H, W)``

    Raises:
        ValueError: wrong number of dimensions or channels, another device, or one value per
            channel in training. Running statistics are then as they were.

    Examples:
        >>> import torch
        >>> y = L1BatchNorm2d(8)(torch.randn(4, 8, 6, 6))

    Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
    """


class L1BatchNorm3d(_L1BatchNorm, nn.BatchNorm3d):
    """L1-norm batch normalization of a 5D input, drop-in for ``torch.nn.BatchNorm3d``.

    Arguments, modes and errors are those of ``L1BatchNorm2d``.

    Shape:
        - Input, output: ``(N, C, D, H, W)``

    Examples:
        >>> import torch
        >>> y = L1BatchNorm3d(8)(torch.randn(2, 8, 4, 6, 6))

    Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
    """
