"""What functions and methods of PyTorch say, as the layers that say the same."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class UnsupportedError(ValueError):
    """A network that has no integer form."""


UNREAD = object()
"""Stands for an index or a value that is none."""


@dataclass(frozen=True)
class Size:
    """Numbers read from a tensor's shape.

    Attributes:
        whole: Whether it is the shape, or a part of it.
        batch: Whether it is the number of images.
    """

    whole: bool = False
    batch: bool = False

    def item(self, index: object) -> Size:
        """Return one number of a shape, or a part of it."""
        if self.whole and isinstance(index, slice):
            return Size(whole=index.start in (None, 0))
        return Size(batch=self.whole and index == 0)


class Flattening(nn.Module):
    """All but the batch in one dimension.

    Args:
        features: How many numbers an image must have: those that the float network names. "one"
            stands for one a channel.
    """

    def __init__(self, features: int | str | None = None) -> None:
        super().__init__()
        self.features = features


def title_of(target: object) -> str:
    """Name of a function, method or value."""
    if isinstance(target, str):
        return target
    return _NAMES.get(target) or getattr(target, "__name__", None) or repr(target)


_Named = Mapping[str, Any]
_Maker = Callable[[_Named, str, "int | None"], Sequence[nn.Module]]


@dataclass(frozen=True)
class _Spelling:
    """A function: the names of its arguments after the tensor, and what it stands for."""

    names: tuple[str, ...]
    make: _Maker


def modules_of(
    target: object, args: Sequence[object], named: _Named, title: str, rank: int | None
) -> Sequence[nn.Module]:
    """Return the layers that a call stands for, one after the other.

    Args:
        target: The function, or the name of the method.
        args: Its arguments after the tensor; sizes as ``Size``.
        named: Those by name.
        title: Name, type and place of the call, for errors.
        rank: Dimensions of the tensor, where they are known.

    Raises:
        UnsupportedError: If there are none, or not with these arguments.
    """
    spelling = _SPELLINGS.get(target)
    if spelling is None:
        raise UnsupportedError(
            f"{title}: expected an operation with an integer form, got {title_of(target)}; "
            f"{ADVICE.get(title_of(target), 'replace it by layers of torch.nn that have one')}"
        )
    if spelling.names[-1:] == ("*",):
        return spelling.make({"all": args, **named}, title, rank)
    return spelling.make({**dict(zip(spelling.names, args, strict=False)), **named}, title, rank)


def _layer(kind: type[nn.Module], *options: str) -> _Maker:
    """A layer of this type, by those of the options that the call has."""

    def make(named: _Named, title: str, rank: int | None) -> Sequence[nn.Module]:
        del title, rank
        given = {k: v for k, v in named.items() if k in options and v is not None}
        return [kind(**given)]

    return make


def _flatten(named: _Named, title: str, rank: int | None) -> Sequence[nn.Module]:
    del rank
    dims = named.get("start_dim", 0), named.get("end_dim", -1)
    if dims != (1, -1):
        raise UnsupportedError(
            f"{title}: expected flatten(1), got start and end {dims}; flatten all but the batch"
        )
    return [Flattening()]


def _view(named: _Named, title: str, rank: int | None) -> Sequence[nn.Module]:
    """``view(x.size(0), -1)`` and its like: whatever follows the batch is all the rest."""
    del rank
    sizes = list(named.get("all", ())) or [named.get("shape", named.get("size"))]
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = list(sizes[0])
    if len(sizes) == 2 and isinstance(sizes[0], Size) and sizes[0].batch:
        return [Flattening(sizes[1] if isinstance(sizes[1], int) and sizes[1] > 0 else None)]
    if len(sizes) == 2 and sizes[0] == -1 and isinstance(sizes[1], int):
        return [Flattening(sizes[1])]
    raise UnsupportedError(
        f"{title}: expected a view that flattens all but the batch, got sizes "
        f"{['…' if isinstance(s, Size) else s for s in sizes]}; call x.flatten(1)"
    )


def _mean(named: _Named, title: str, rank: int | None) -> Sequence[nn.Module]:
    """A mean over all pixels."""
    dims = named.get("dim", named.get("axis"))
    dims = dims if isinstance(dims, (tuple, list)) else (dims,)
    known = rank or (4 if len(dims) == 2 else None)
    pixels = set() if known is None else {d % known for d in dims if isinstance(d, int)}
    pools: dict[tuple[int | None, frozenset[int]], type[nn.Module]] = {
        (4, frozenset({2, 3})): nn.AdaptiveAvgPool2d,
        (3, frozenset({2})): nn.AdaptiveAvgPool1d,
    }
    pool = pools.get((known, frozenset(pixels)))
    if pool is None or named.get("dtype") is not None:
        raise UnsupportedError(
            f"{title}: expected a mean over all pixels, got dim={named.get('dim')}; call "
            "x.mean((2, 3)) for images, or nn.AdaptiveAvgPool2d(1)"
        )
    layer = pool(1)
    return [layer] if named.get("keepdim", False) else [layer, Flattening()]


def _squeeze(named: _Named, title: str, rank: int | None) -> Sequence[nn.Module]:
    dims = named.get("dim")
    dims = dims if isinstance(dims, (tuple, list)) else (dims,)
    if any(d not in (2, 3, -1, -2) for d in dims):
        raise UnsupportedError(
            f"{title}: expected pixels to squeeze, got dim={named.get('dim')}, which may be the "
            "batch or the channels; call x.flatten(1)"
        )
    return [] if rank == 2 else [Flattening("one")]


def _nothing(named: _Named, title: str, rank: int | None) -> Sequence[nn.Module]:
    del named, title, rank
    return []


def _pad(named: _Named, title: str, rank: int | None) -> Sequence[nn.Module]:
    del rank
    pad, mode, value = named.get("pad"), named.get("mode", "constant"), named.get("value")
    plain = isinstance(pad, (tuple, list)) and len(pad) in (2, 4)
    if not plain or mode != "constant" or value not in (None, 0):
        raise UnsupportedError(
            f"{title}: expected padding of rows and columns by zeros, got {pad}, mode {mode!r} and "
            f"value {value}; pad images by zeros"
        )
    assert pad is not None
    return [nn.ZeroPad2d((*pad, 0, 0)[:4])]


def _clamp(named: _Named, title: str, rank: int | None) -> Sequence[nn.Module]:
    del rank
    kinds: dict[object, type[nn.Module]] = {(0, None): nn.ReLU, (0, 6): nn.ReLU6}
    found = kinds.get((named.get("min"), named.get("max")))
    if found is None:
        raise UnsupportedError(
            f"{title}: expected limits of 0 and none, or of 0 and 6, got {dict(named)}; use ReLU "
            "or ReLU6"
        )
    return [found()]


_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_RESIZE = ("size", "scale_factor", "mode", "align_corners")
_NOTHING = _Spelling(("*",), _nothing)

_SPELLINGS: dict[object, _Spelling] = {
    **dict.fromkeys(
        (F.relu, torch.relu, torch.relu_, "relu", "relu_"), _Spelling((), _layer(nn.ReLU))
    ),
    F.relu6: _Spelling((), _layer(nn.ReLU6)),
    F.hardswish: _Spelling((), _layer(nn.Hardswish)),
    F.dropout: _Spelling(("p",), _layer(nn.Dropout, "p")),
    F.dropout2d: _Spelling(("p",), _layer(nn.Dropout2d, "p")),
    F.max_pool2d: _Spelling(_POOL, _layer(nn.MaxPool2d, *_POOL)),
    F.max_pool1d: _Spelling(_POOL, _layer(nn.MaxPool1d, *_POOL)),
    F.avg_pool2d: _Spelling(
        (*_AVERAGE, "divisor_override"), _layer(nn.AvgPool2d, *_AVERAGE, "divisor_override")
    ),
    F.avg_pool1d: _Spelling(_AVERAGE, _layer(nn.AvgPool1d, *_AVERAGE)),
    F.adaptive_avg_pool2d: _Spelling(("output_size",), _layer(nn.AdaptiveAvgPool2d, "output_size")),
    F.adaptive_avg_pool1d: _Spelling(("output_size",), _layer(nn.AdaptiveAvgPool1d, "output_size")),
    F.interpolate: _Spelling(_RESIZE, _layer(nn.Upsample, *_RESIZE)),
    F.pad: _Spelling(("pad", "mode", "value"), _pad),
    **dict.fromkeys((torch.flatten, "flatten"), _Spelling(("start_dim", "end_dim"), _flatten)),
    **dict.fromkeys(("view", "reshape", torch.reshape), _Spelling(("*",), _view)),
    **dict.fromkeys(("mean", torch.mean), _Spelling(("dim", "keepdim"), _mean)),
    **dict.fromkeys(("squeeze", torch.squeeze), _Spelling(("dim",), _squeeze)),
    **dict.fromkeys(("clamp", "clamp_", torch.clamp), _Spelling(("min", "max"), _clamp)),
    **dict.fromkeys(("contiguous", "clone", "float"), _NOTHING),
}
_NAMES = {v: k for k, v in vars(F).items() if callable(v) and not k.startswith("_")} | {
    operator.mul: "multiplication",
    operator.matmul: "matrix product",
}

_LOGITS = "quantized.cross_entropy takes the logits: remove it"
ADVICE = {
    **dict.fromkeys(("softmax", "log_softmax", "Softmax", "LogSoftmax"), _LOGITS),
    **dict.fromkeys(
        ("sigmoid", "Sigmoid", "tanh", "Tanh", "elu", "ELU", "leaky_relu", "LeakyReLU", "PReLU"),
        "use ReLU, ReLU6 or Hardswish",
    ),
    **dict.fromkeys(
        ("silu", "SiLU", "gelu", "GELU", "mish", "Mish"), "use Hardswish, which is near it, or ReLU"
    ),
    **dict.fromkeys(
        ("ConvTranspose2d", "conv_transpose2d"),
        "use nn.Upsample(scale_factor=2) and a convolution after it",
    ),
    **dict.fromkeys(
        ("LayerNorm", "GroupNorm", "InstanceNorm2d", "layer_norm", "group_norm"),
        "use l1bn.L1BatchNorm2d or L1BatchNorm1d",
    ),
    **dict.fromkeys(("adaptive_max_pool2d", "AdaptiveMaxPool2d"), "use nn.MaxPool2d"),
    **dict.fromkeys(("Conv3d", "MaxPool3d", "AvgPool3d"), "use the layer of two dimensions"),
    "multiplication": "integer training has no product of two activations: leave the gate out",
    "conv2d": "use nn.Conv2d, whose weight the network can find",
    "linear": "use nn.Linear, whose weight the network can find",
    "batch_norm": "use nn.BatchNorm2d or l1bn.L1BatchNorm2d",
    "getitem": "integer training splits no tensors: use layers that take all channels",
}
"""The way out, by the name of a layer or function."""

_RANKS: dict[type[nn.Module], int] = {
    **dict.fromkeys((nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d), 4),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, nn.Dropout2d, nn.ZeroPad2d), 4),
    **dict.fromkeys((nn.Conv1d, nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d), 3),
    **dict.fromkeys((nn.Linear, nn.Flatten, Flattening), 2),
}


def rank_after(module: nn.Module | None, before: int | None) -> int | None:
    """Return how many dimensions a layer's output has, where that is known."""
    for kind, rank in _RANKS.items():
        if isinstance(module, kind):
            return rank
    return before
