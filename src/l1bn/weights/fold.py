"""fold_: put normalization layers into the convolutions before them, for inference.

What may be folded is found by running the model, not by reading it: a norm whose input is, in every
call, what one convolution has just returned. That nothing else looks at that value is found by
running the model again with other values in its place, which only the norm does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from l1bn.model.layers import bare_type
from l1bn.model.refuse import check_model, check_ready
from l1bn.model.report import ConversionReport, Item
from l1bn.model.trial import copied, difference, room_between, round_parameters_, run
from l1bn.nn import L1BatchNormAct2d, L1SyncBatchNormAct2d
from l1bn.nn.batchnorm import _L1BatchNorm
from l1bn.nn.fusable import is_watched

#: Layers that a norm can be folded into, with the dimensions of their output.
_PRODUCERS: dict[type[nn.Module], int] = {
    nn.Linear: 2,
    nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5,
    nn.ConvTranspose1d: 3, nn.ConvTranspose2d: 4, nn.ConvTranspose3d: 5,
}  # fmt: skip
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_WITH_ACTIVATION = (L1BatchNormAct2d, L1SyncBatchNormAct2d)
#: A layer by all of its paths in the model, and what its output is replaced by.
_Swap = Callable[[str, Tensor], Tensor]


def fold_(model: nn.Module, example: object) -> ConversionReport:
    """Fold normalization into the convolutions and linear layers before it, in place.

    For inference: the convolution then computes both, and the norm becomes ``nn.Identity``, or its
    activation. Of L1BN and BatchNorm layers alike. With s = γ / √(running_var + eps), in double and
    rounded once, the weight becomes s·weight and the bias β + s·(bias − running_mean).

    A norm is folded where, on the example, it takes what one convolution returned, and nothing else
    sees that value. Copies of the model find this out; they then run on the example once more, and
    the outputs must agree. A model that takes another way through its layers for another input is
    not for this function.

    Args:
        model: a module in evaluation mode. Its norms cannot be had back: keep the trained weights.
        example: input of the model. A tensor, a tuple of positional arguments, or a mapping of
            keyword arguments.

    Returns:
        What was folded, what not, and why. ``print`` it.

    Raises:
        TypeError: not a module.
        ValueError: a model in training mode, compiled, scripted or wrapped, or one that cannot be
            copied or run on the example, returns no tensors, or differs once folded. The model is
            as it was.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> import l1bn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), l1bn.L1BatchNorm2d(8), nn.ReLU()).eval()
        >>> print(l1bn.fold_(model, torch.randn(1, 3, 8, 8)))
        fold_: Sequential
          1 converted
              1 × L1BatchNorm2d into Conv2d
    """
    check_model(model, "fold_")
    check_ready(model, "fold_")
    if any(module.training for module in model.modules()):
        raise ValueError("fold_: expected a model in evaluation mode: call model.eval() first")
    wanted = _outputs(_copy(model), example)
    if not wanted:
        raise ValueError(
            "fold_: expected a model that returns tensors, to compare them, got none in what it "
            "returned: fold the part of it that returns tensors"
        )
    _compare(wanted, _outputs(_copy(model), example))  # does it repeat itself?
    pairs, left = _candidates(model, example)
    left += _watched(model, pairs)
    found = _seen_by_the_norm_alone(model, example, pairs, wanted)
    left += [Item(norm, _ELSEWHERE) for norm in pairs if norm not in found]
    trial, moved = _copy(model), _copy(model)
    for norm, producer in found.items():
        _fold(trial, norm, producer)
    round_parameters_(moved)
    room = room_between(wanted, _outputs(moved, example))
    # A run may change a copy's state, but not its parameters.
    _compare(wanted, _outputs(trial, example), room)
    report = ConversionReport("fold_", type(model).__name__, left=_in_order(model, left))
    for norm, producer in found.items():
        names = (type(model.get_submodule(path)).__name__ for path in (norm, producer))
        report.converted.append(Item(norm, " into ".join(names)))
    for norm, producer in found.items():
        made, old = trial.get_submodule(producer), model.get_submodule(producer)
        old.weight, old.bias = made.weight, made.bias
        _replace(model, model.get_submodule(norm))
    return report


_ELSEWHERE = "something else sees the convolution's output too"
_UNREACHED = "the example does not reach it"
_NO_PRODUCER = "its input is not what one convolution returned"


def _compare(wanted: list[Tensor], got: list[Tensor], room: Sequence[float] | None = None) -> None:
    what = difference(wanted, got, room)
    if what:
        raise ValueError(
            f"fold_: expected the folded model to compute the same, got {what}: does it depend on "
            "the clock or on other state? The model is unchanged"
        )


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copied(model)
    except Exception as error:
        raise ValueError(
            "fold_: expected a model that can be copied, to try it on the example, got one whose "
            f"copy raised {type(error).__name__}: {error}; the model is unchanged"
        ) from error


def _outputs(model: nn.Module, example: object) -> list[Tensor]:
    try:
        with torch.no_grad():
            return run(model, example)
    except Exception as error:
        raise ValueError(
            "fold_: expected an example that the model can run, got one which raised "
            f"{type(error).__name__}: {error}; the model is unchanged"
        ) from error


def _watched(model: nn.Module, pairs: dict[str, str]) -> list[Item]:
    """Take out the pairs of which somebody looks at a layer."""
    found = []
    for norm, producer in list(pairs.items()):
        layers = (model.get_submodule(path) for path in (norm, producer))
        watched = [type(layer).__name__ for layer in layers if is_watched(layer)]
        if watched:
            del pairs[norm]
            what = f"the {watched[0]} has hooks, or its forward was replaced"
            found.append(Item(norm, what))
    return found


def _is_norm(module: nn.Module) -> TypeGuard[_BatchNorm]:
    return isinstance(module, _L1BatchNorm) or bare_type(module) in _NORMS


def _candidates(model: nn.Module, example: object) -> tuple[dict[str, str], list[Item]]:
    """Norms with the layer before them, by what happens on the example; and the others."""
    produced: dict[int, tuple[str, Tensor]] = {}  # alive, so that no id is used twice
    taken: dict[str, list[str | None]] = {}

    def note(path: str, y: Tensor) -> Tensor:
        produced[id(y)] = path, y
        return y

    def take(path: str, x: Tensor) -> Tensor:
        taken.setdefault(path, []).append(produced[id(x)][0] if id(x) in produced else None)
        return x

    trial = _copy(model)
    with _swapped(trial, note, take) as odd:
        _outputs(trial, example)
    outputs = dict(produced.values())
    pairs: dict[str, str] = {}
    left = []
    for path, module in model.named_modules():
        if not _is_norm(module):
            if isinstance(module, _BatchNorm):
                left.append(Item(path, f"{type(module).__name__}: may do more than BatchNorm does"))
            continue
        sources = taken.get(path, [])
        producer = sources[0] if len(set(sources)) == 1 else None
        if path in odd:
            left.append(Item(path, "it is called with more than its input"))
        elif not sources:
            left.append(Item(path, _UNREACHED))
        elif producer is None:
            left.append(Item(path, _NO_PRODUCER))
        elif reason := _unfit(model.get_submodule(producer), module, outputs[producer]):
            left.append(Item(path, reason))
        else:
            pairs[path] = producer
    several = [n for n, p in pairs.items() if list(pairs.values()).count(p) > 1]
    left += [Item(norm, _ELSEWHERE) for norm in several]
    return {n: p for n, p in pairs.items() if n not in several}, left


def _unfit(producer: nn.Module, norm: _BatchNorm, output: Tensor) -> str | None:
    """Why a norm cannot be folded into the layer before it."""
    if norm.running_mean is None or norm.running_var is None:
        return "it normalizes with the statistics of the batch"
    for part in (producer, norm):
        if parametrize.is_parametrized(part):
            return f"the {type(part).__name__} has a parametrization"
    if "weight" not in producer._parameters:  # torch.nn.utils.weight_norm, for instance
        return f"the {type(producer).__name__} has no weight of its own"
    if output.dim() != _PRODUCERS[bare_type(producer)]:
        return "the convolution's output has no batch, or the linear layer's is no matrix"
    return None


@contextmanager
def _swapped(model: nn.Module, after: _Swap, before: _Swap) -> Iterator[set[str]]:
    """Let ``after`` replace the producers' outputs and ``before`` the norms' inputs.

    Gives the norms that are called with more than their input.
    """
    odd: set[str] = set()
    handles = []

    def returned(path: str, _module: nn.Module, _args: object, y: Tensor) -> Tensor:
        return after(path, y)

    def given(
        path: str, _module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            return (before(path, args[0]),), kwargs
        odd.add(path)
        return args, kwargs

    try:
        for path, module in model.named_modules():
            if bare_type(module) in _PRODUCERS:
                handles.append(module.register_forward_hook(partial(returned, path)))
            elif _is_norm(module):
                hook = partial(given, path)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield odd
    finally:
        for handle in handles:
            handle.remove()


def _seen_by_the_norm_alone(
    model: nn.Module, example: object, pairs: dict[str, str], wanted: list[Tensor]
) -> dict[str, str]:
    """Those pairs of which nothing but the norm sees the value between.

    All are tried at once, and halves of those that fail.
    """
    if not pairs or _unseen(model, example, pairs, wanted):
        return pairs
    if len(pairs) == 1:
        return {}
    items, middle = list(pairs.items()), len(pairs) // 2
    halves = (
        _seen_by_the_norm_alone(model, example, dict(half), wanted)
        for half in (items[:middle], items[middle:])
    )
    return {norm: producer for half in halves for norm, producer in half.items()}


def _unseen(model: nn.Module, example: object, pairs: dict[str, str], wanted: list[Tensor]) -> bool:
    """Whether the outputs stay the same with other values between the layers of each pair."""
    return all(_same_with(model, example, pairs, wanted, fill) for fill in (float("nan"), 1e3))


def _same_with(
    model: nn.Module, example: object, pairs: dict[str, str], wanted: list[Tensor], fill: float
) -> bool:
    hidden: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in pairs.values()}

    def hide(path: str, y: Tensor) -> Tensor:
        if path not in hidden:
            return y
        other = torch.full_like(y, fill)
        hidden[path].append((other, y))
        return other

    def show(path: str, x: Tensor) -> Tensor:
        # As it was returned: what edits it in between is found by that.
        return next((y for other, y in hidden.get(pairs.get(path, ""), ()) if other is x), x)

    trial = _copy(model)
    with _swapped(trial, hide, show):
        try:
            got = _outputs(trial, example)
        except ValueError:  # such as a check for NaN
            return False
    return len(got) == len(wanted) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        for a, b in zip(got, wanted, strict=True)
    )


def _double(v: Tensor) -> Tensor:
    """On the CPU, for not every device has double."""
    return v.detach().to("cpu", torch.float64)


def _fold(model: nn.Module, norm_path: str, producer_path: str) -> None:
    norm, producer = model.get_submodule(norm_path), model.get_submodule(producer_path)
    assert _is_norm(norm)
    assert isinstance(producer, (nn.Linear, _ConvNd))
    assert norm.running_mean is not None  # see _unfit
    assert norm.running_var is not None
    weight, mean = producer.weight, _double(norm.running_mean)
    scale = (_double(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _double(norm.weight)
    bias = -mean if producer.bias is None else _double(producer.bias) - mean
    bias = bias * scale if norm.bias is None else bias * scale + _double(norm.bias)
    folded = _double(weight) * _along(producer, scale)
    producer.weight = nn.Parameter(folded.to(weight), weight.requires_grad)
    producer.bias = nn.Parameter(bias.to(weight), weight.requires_grad)
    _replace(model, norm)


def _along(producer: nn.Linear | _ConvNd, scale: Tensor) -> Tensor:
    """The factors in the shape of the weight, whose output channels are its first dimension.

    A transposed convolution has those of each group in its second.
    """
    weight = producer.weight
    if not isinstance(producer, _ConvTransposeNd):
        return scale.view(-1, *[1] * (weight.dim() - 1))
    groups, each = producer.groups, weight.shape[1]
    spread = scale.view(groups, 1, each).expand(groups, weight.shape[0] // groups, each)
    return spread.reshape(weight.shape[0], each, *[1] * (weight.dim() - 2))


def _rest(norm: nn.Module) -> nn.Module:
    """What is left of a norm: its activation, or nothing."""
    if not isinstance(norm, _WITH_ACTIVATION):
        return nn.Identity()
    return norm.act if type(norm.drop) is nn.Identity else nn.Sequential(norm.drop, norm.act)


def _replace(model: nn.Module, old: nn.Module) -> None:
    """Put what is left of a norm in its place, wherever that is."""
    new = _rest(old)
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def _in_order(model: nn.Module, items: list[Item]) -> list[Item]:
    places = {path: i for i, (path, _) in enumerate(model.named_modules())}
    return sorted(items, key=lambda item: places[item.path])
