"""Functional form of L1-norm batch normalization."""

from __future__ import annotations

import torch
from torch import Tensor

from l1bn.activation import DESCRIPTIONS, Activation, activate, clips, split
from l1bn.ops import frozen, masked
from l1bn.ops.records import Branch, Call, Running
from l1bn.ops.registry import PairBackend, computes, registry
from l1bn.ops.running import update_running_statistics
from l1bn.ops.tracing import is_traced

#: Activations that can be computed together with the normalization.
ACTIVATIONS = (None, *DESCRIPTIONS)
_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.float64})


def l1_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    r"""Apply L1-norm batch normalization, then a residual and an activation.

    In training the mean absolute deviation of the batch, times ``√(π/2)``, takes the
    place of the standard deviation:

    .. math::
        y = act\Big(γ\frac{x-μ}{σ} + β + r\Big), \quad
        σ = \max\big(\sqrt{π/2}\cdot \mathrm{mean}|x-μ|,\ \sqrt{ε}\big)

    In evaluation it is ``F.batch_norm`` exactly. The first eight arguments are those of
    ``torch.nn.functional.batch_norm``, in its order.

    Args:
        input: floating-point tensor; 16-bit formats are computed in float32.
        running_mean: moving average, updated in place when training.
        running_var: moving average of ``(σ² - ε)·M/(M - 1)``, updated in place when training. A
            channel whose batch statistics are not finite keeps its averages.
        weight: γ.
        bias: β.
        training: use the statistics of the batch.
        momentum: weight of the batch in the moving averages; a tensor of one element is taken
            too and is not synchronised.
        eps: floor of the variance: ``σ ≥ √ε``.
        activation: ``None``, the name of one of ``ACTIVATIONS``, or for ``"leaky_relu"`` and
            ``"elu"`` the name and the parameter: ``("leaky_relu", 0.2)``.
        residual: tensor like ``input``, added before the activation.
        mask: booleans, False for padding. In training the statistics leave it out; every element
            is normalized with them. Not used in evaluation. Computed by plain operations.
        backend: ``"auto"`` or the name of a backend (``l1bn doctor`` lists them).

    Returns:
        A tensor like ``input``.

    Shape:
        - input, residual, output: ``(N, C, *)``
        - running_mean, running_var, weight, bias: ``(C,)``
        - mask: ``(N, 1, *)``, or anything that broadcasts to it

    Raises:
        ValueError: shapes, devices or options that do not fit each other, or a batch of one
            value per channel in training.
        TypeError: an input that is not a floating-point tensor.

    Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
    """
    if training and mask is None:
        state = running_mean, running_var, weight, bias
        whole = Branch(input, *state, training, momentum=momentum, eps=eps)
        found = _train_quickly(whole, residual, activation, backend)
        if found is not None:
            return found
    if not is_traced():
        vectors = running_mean, running_var, weight, bias
        _check(input, vectors, training, eps, activation, residual)
        if mask is not None:
            _check_mask(mask, input)
    call = Call(weight, bias, activation, eps)
    if not training:
        assert running_mean is not None  # narrowed by _check
        assert running_var is not None
        chosen = registry.resolve(backend, input, weight, bias, residual)
        inside = call if computes(chosen, activation) else Call(weight, bias, None, eps)
        y = chosen.evaluate(input, residual, inside, Running(running_mean, running_var))
        return y if inside is call else activate(y, activation)
    if input.numel() == 0:
        return _empty(input, weight, bias, residual)
    if not isinstance(momentum, (float, int, Tensor)):
        raise TypeError(
            f"expected momentum as a number or a tensor of one element, got {momentum!r}: for a "
            "cumulative average pass one over the number of batches"
        )
    running = None
    if running_mean is not None and running_var is not None:
        running = Running(running_mean, running_var, momentum)
    if frozen.only_shifts(input, residual, call):
        return frozen.shift(
            residual, call, lambda: _train(input, residual, call, running, mask, backend)
        )
    return _train(input, residual, call, running, mask, backend)


def _train_quickly(
    call: Branch, residual: Tensor | None, activation: Activation | None, backend: str
) -> Tensor | None:
    """The whole call by a backend that asks no questions, or None: then nothing has happened."""
    if torch.compiler.is_compiling():
        return None
    quick = registry.quick(backend)
    return None if quick is None else quick.train_quickly(call, residual, activation)


def _train(
    x: Tensor,
    residual: Tensor | None,
    call: Call,
    running: Running | None,
    mask: Tensor | None,
    backend: str,
) -> Tensor:
    """Normalize with the statistics of the batch, and move the running ones."""
    weight, bias, activation, eps = call
    if mask is not None:
        y, mean, scale, count = masked.train(x, mask, residual, call)
        if running is not None:
            update_running_statistics(running, mean, scale, count, eps)
        return y
    chosen = registry.resolve(backend, x, weight, bias, residual)
    whole = computes(chosen, activation)
    inside = call if whole else Call(weight, bias, None, eps)
    if running is None:
        y = chosen.train(x, residual, inside)[0]
    else:
        y = chosen.train_and_update(x, residual, inside, running)
    return y if whole else activate(y, activation)


def l1_batch_norm_pair(
    first: Branch, second: Branch, activation: Activation | None, backend: str = "auto"
) -> Tensor:
    r"""Normalize two branches, add them and apply an activation: where a residual block ends.

    The same function as two calls of ``l1_batch_norm``, the second one's output being the
    residual of the first one. In training with ReLU or ReLU6 two backends keep less for backward.
    Beside the output and the sign bits, ``cpu`` keeps one normalized branch where the output is
    alive, and ``triton`` keeps the second input.

    Args:
        first: the branch that would take the residual.
        second: the branch that would be the residual.
        activation: as in ``l1_batch_norm``.
        backend: as in ``l1_batch_norm``.

    Shape:
        - inputs, output: ``(N, C, *)``

    Raises:
        ValueError: as ``l1_batch_norm``.
        TypeError: as ``l1_batch_norm``.

    Source: Wu et al., IEEE TNNLS 2019, arXiv:1802.09769.
    """
    if first.training and second.training and first.input.numel():
        for branch in (second, first):
            vectors = branch.running_mean, branch.running_var, branch.weight, branch.bias
            _check(branch.input, vectors, True, branch.eps, activation, None)
        _check_residual(second.input, first.input)
        chosen = registry.resolve(backend, first.input, first.weight, first.bias, second.input)
        same = chosen is registry.resolve(backend, second.input, second.weight, second.bias, None)
        if same and isinstance(chosen, PairBackend) and activation and clips(activation):
            y = chosen.train_pair(first, second, activation)
            if y is not None:
                return y
    residual = l1_batch_norm(*second, backend=backend)
    return l1_batch_norm(*first, activation=activation, residual=residual, backend=backend)


def _empty(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None
) -> Tensor:
    """An output of no elements that still gives every input a gradient of zeros."""
    shape = (1, -1, *[1] * (x.dim() - 2))
    y = x.clone()
    if weight is not None:
        y = y * weight.to(x.dtype).view(shape)
    if bias is not None:
        y = y + bias.to(x.dtype).view(shape)
    return y if residual is None else y + residual


def _check(
    x: Tensor,
    vectors: tuple[Tensor | None, ...],
    training: bool,
    eps: float,
    activation: Activation | None,
    residual: Tensor | None,
) -> None:
    """Refuse what does not fit; ``vectors`` are running mean and variance, γ and β."""
    _check_input(x, training)
    if activation is not None:
        split(activation)
    _check_eps_and_size(x, training, eps)
    _check_running(vectors[0], vectors[1], training)
    size, device = x.shape[1:2], x.device
    for vector in vectors:
        if vector is not None and not (
            isinstance(vector, Tensor)
            and vector.shape == size
            and vector.device == device
            and vector.dtype in _DTYPES
            and vector.layout is torch.strided
        ):
            names = "running_mean", "running_var", "weight", "bias"
            _refuse_vector(names[[v is vector for v in vectors].index(True)], vector, x)
    if residual is not None:
        _check_residual(residual, x)


def _check_input(x: Tensor, training: bool) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"expected input to be a torch.Tensor, got {type(x).__name__}")
    if x.is_nested or (x.layout is not torch.strided and (training or not x.is_mkldnn)):
        _refuse_layout("input", x)
    if x.dtype not in _DTYPES:
        raise TypeError(
            f"expected a floating-point input of 16, 32 or 64 bits, got {x.dtype} of shape "
            f"{tuple(x.shape)}: convert it, for instance with input.float()"
        )
    if x.dim() < 2:
        raise ValueError(
            f"expected at least 2D input (got {x.dim()}D input): the shape is (N, C, *)"
        )
    if x.shape[1] == 0:
        raise ValueError(
            f"expected at least one channel, got an input of shape {tuple(x.shape)}: "
            "dimension 1 holds the channels"
        )


def _check_eps_and_size(x: Tensor, training: bool, eps: float) -> None:
    if not training:
        if eps < 0.0:
            raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
        return
    if eps <= 0.0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    if x.numel() == x.shape[1]:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {x.size()}"
        )


def _check_running(running_mean: Tensor | None, running_var: Tensor | None, training: bool) -> None:
    if (running_mean is None) != (running_var is None):
        missing = "running_mean" if running_mean is None else "running_var"
        raise ValueError(
            f"expected running_mean and running_var both or neither, {missing} is None: "
            "pass both tensors or None for both"
        )
    if not training and running_mean is None:
        raise ValueError(
            "Expected running_mean and running_var to be defined when training=False: "
            "pass them, or training=True to use the statistics of the batch"
        )


def _refuse_vector(name: str, vector: Tensor, x: Tensor) -> None:
    _check_tensor(name, vector)
    channels = x.shape[1]
    if vector.dtype not in _DTYPES:
        raise TypeError(
            f"expected {name} as floating-point numbers of 16, 32 or 64 bits, got {vector.dtype}: "
            "convert it, for instance with .float()"
        )
    if vector.shape != (channels,):
        raise ValueError(
            f"{name} should contain {channels} elements not {vector.numel()}: expected shape "
            f"({channels},) for an input of shape {tuple(x.shape)}, got {tuple(vector.shape)}"
        )
    raise ValueError(
        f"expected {name} on the input's device {x.device}, got {vector.device}: "
        "move the layer or the input with .to(device)"
    )


def _refuse_layout(name: str, v: Tensor) -> None:
    found, how = str(v.layout), ".to_dense()"
    if v.is_nested:
        found, how = "a nested tensor", ".to_padded_tensor(0.0), and pass a mask"
    raise TypeError(
        f"expected {name} as a dense tensor (torch.strided), got {found}: convert it with {how}"
    )


def _check_mask(mask: Tensor, x: Tensor) -> None:
    _check_tensor("mask", mask)
    shape = (x.shape[0], 1, *x.shape[2:])
    fits = mask.dim() == x.dim() and all(
        size in (1, whole) for size, whole in zip(mask.shape, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"expected a mask that broadcasts to {shape} for an input of shape {tuple(x.shape)}, "
            f"got {tuple(mask.shape)}: give it a channel dimension with mask.unsqueeze(1)"
        )
    if mask.dtype != torch.bool or mask.device != x.device:
        raise ValueError(
            f"expected a mask of torch.bool on {x.device}, got {mask.dtype} on {mask.device}: "
            "True marks the elements that count"
        )


def _check_tensor(name: str, v: Tensor) -> None:
    if not isinstance(v, Tensor):
        raise TypeError(f"expected {name} to be a torch.Tensor, got {type(v).__name__}")
    if v.is_nested or v.layout is not torch.strided:
        _refuse_layout(name, v)


def _check_residual(residual: Tensor, x: Tensor) -> None:
    _check_tensor("residual", residual)
    if residual.shape != x.shape:
        raise ValueError(
            f"expected residual of the input's shape {tuple(x.shape)}, got "
            f"{tuple(residual.shape)}: expand it, or add it to the output"
        )
    if residual.dtype != x.dtype or residual.device != x.device:
        raise ValueError(
            f"expected residual of the input's dtype and device {x.dtype}, {x.device}, got "
            f"{residual.dtype}, {residual.device}: convert it with residual.to(input)"
        )
