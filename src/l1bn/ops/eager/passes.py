"""Training forward and backward as few passes of PyTorch's operators, in place and block by block.

On a CPU a tensor is gone through in blocks of images that stay in the cache, so that only the
first operator of a pass waits for memory. Elsewhere there is one block, and one launch an operator.
Nothing here is differentiable, and nothing waits for a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from l1bn.activation import Activation, top
from l1bn.ops import mask
from l1bn.ops.formula import (
    K,
    above_floor,
    accumulate_dtype,
    gain,
    per_channel,
    reduce_dims,
)
from l1bn.ops.records import Call

#: Elements of a block for each thread: four such blocks of float32 lie in a second-level cache, and
#: an operator takes several times as long as its call.
_BLOCK = 1 << 17

#: Elements of a channel from which on one sum in single precision loses a digit.
_LONG = 1 << 14

#: Adds up vectors over the processes of a group, each with its own.
Reduce = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

#: What a tensor is indexed with.
Place = tuple[slice, ...]


class Statistics(NamedTuple):
    """What forward finds of each channel, in the accumulation dtype.

    ``share`` is the part of the values that are at least their mean; None where nobody asked.
    ``values`` is how many there are, over all processes.

    Shape:
        - mean, scale, share: ``(C,)``
        - values: ``(1,)``, where it is a tensor
    """

    mean: Tensor
    scale: Tensor
    share: Tensor | None
    values: Tensor | int


class Bits(NamedTuple):
    """Where the input was at least its mean, one bit per element, packed block by block.

    The blocks are forward's: backward may run with another number of threads.
    """

    packed: Tensor
    blocks: list[Place]
    places: tuple[mask.Places, ...]

    def each(self) -> Iterator[Tensor]:
        """The booleans of each block."""
        sizes = [(place.shape.numel() + 7) // 8 for place in self.places]
        for packed, place in zip(self.packed.split(sizes), self.places, strict=True):
            yield mask.unpack(packed, place)

    def whole(self, like: Tensor) -> Tensor:
        """The booleans of a tensor."""
        found = torch.empty_like(like, dtype=torch.bool)
        for block, bits in zip(self.blocks, self.each(), strict=True):
            found[block] = bits
        return found


class _Sum:
    """A sum over blocks for each channel, wider than its terms."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, block: Tensor) -> None:
        long = block.numel() > _LONG * block.shape[1]
        wide = torch.float64 if long and block.dtype is torch.float32 else None
        self._parts.append(block.sum(reduce_dims(block), dtype=wide))

    def total(self) -> Tensor:
        if len(self._parts) == 1:
            return self._parts[0]
        return torch.stack([part.double() for part in self._parts]).sum(0)


def _blocks(x: Tensor) -> list[Place]:
    """Where the blocks of a tensor are: images, or where one is too large rows of images."""
    images, rows = x.shape[0], x.shape[2] if x.dim() > 2 else 1
    if not x.is_cpu or not x.numel():
        return [(slice(None),)]
    wanted, size = _BLOCK * torch.get_num_threads(), x.numel()
    at_once = max(1, wanted * images // size)
    parts = [slice(i, i + at_once) for i in range(0, images, at_once)]
    if at_once > 1 or rows == 1:
        return [(part,) for part in parts]
    at_once = max(1, wanted * images * rows // size)
    bands = [slice(i, i + at_once) for i in range(0, rows, at_once)]
    return [(part, slice(None), band) for part in parts for band in bands]


class _Scratch:
    """Memory of a block in the accumulation dtype, used again for each block."""

    def __init__(self, like: Tensor, first: Place) -> None:
        self._dtype = accumulate_dtype(like.dtype)
        self._whole = torch.empty_like(like[first], dtype=self._dtype)

    def of(self, block: Tensor) -> Tensor:
        """The memory for a block of that size."""
        if block.dim() == 2:
            return self._whole[: block.shape[0]]
        return self._whole[: block.shape[0], :, : block.shape[2]]

    def wide(self, block: Tensor) -> Tensor:
        """The block itself where it is in the accumulation dtype, otherwise a copy here."""
        return block if block.dtype is self._dtype else self.of(block).copy_(block)


def _total(x: Tensor, blocks: list[Place], scratch: _Scratch) -> Tensor:
    total = _Sum()
    for s in blocks:
        total.add(scratch.wide(x[s]))
    return total.total()


def forward(
    x: Tensor,
    residual: Tensor | None,
    call: Call,
    want_share: bool,
    want_bits: bool,
    reduce: Reduce | None = None,
) -> tuple[Tensor, Statistics, Bits | None]:
    """Normalize with the statistics of the batch.

    Args:
        x: input.
        residual: added before the activation.
        call: the other arguments.
        want_share: also count the values that are at least their mean, for x's gradient.
        want_bits: also return which they are.
        reduce: adds up over processes, which all have to want the same.

    Returns:
        ``(y, statistics, bits)``, the bits where they are wanted.

    Shape:
        - x, residual, y: ``(N, C, *)``
    """
    blocks = _blocks(x)
    one, other = (_Scratch(x, blocks[0]) for _ in range(2))
    own = x.numel() // x.shape[1]
    count: Tensor | int = own
    total = _total(x, blocks, one)
    if reduce is not None:
        total, count = reduce(total, torch.full((1,), own, device=x.device))
    mean = (total / count).to(accumulate_dtype(x.dtype))
    centre = per_channel(mean, x)
    deviation, positives = _Sum(), _Sum()
    packed: list[tuple[Tensor, mask.Places]] = []
    for s in blocks:
        wide = one.wide(x[s])
        at_least, centred = other.of(wide), one.of(wide)
        if want_share:
            positives.add(torch.ge(wide, centre, out=at_least))
        if want_bits:
            packed.append(mask.pack(at_least.bool()))
        deviation.add(torch.sub(wide, centre, out=centred).abs_())
    spread, number = deviation.total(), positives.total() if positives else None
    if reduce is not None and number is not None:
        spread, number = reduce(spread, number)
    scale = (spread * K / count).to(mean.dtype).clamp_min(math.sqrt(call.eps))
    share = None if number is None else (number / count).to(mean.dtype)
    statistics = Statistics(mean, scale, share, count)
    bits = None
    if want_bits:
        parts, places = zip(*packed, strict=True)
        bits = Bits(torch.cat(parts), blocks, places)
    return _normalize(x, residual, call, statistics, blocks, (one, other)), statistics, bits


def _normalize(
    x: Tensor,
    residual: Tensor | None,
    call: Call,
    statistics: Statistics,
    blocks: list[Place],
    scratch: tuple[_Scratch, _Scratch],
) -> Tensor:
    one, other = scratch
    centre = per_channel(statistics.mean, x)
    factor = per_channel(gain(call.weight, statistics.scale), x)
    shift = None if call.bias is None else per_channel(call.bias.to(factor.dtype), x)
    y = torch.empty_like(x)
    for s in blocks:
        wide, out = one.wide(x[s]), y[s]
        z = out if out.dtype is factor.dtype else one.of(wide)
        torch.sub(wide, centre, out=z).mul_(factor)
        if shift is not None:
            z.add_(shift)
        if residual is not None:
            z.add_(other.wide(residual[s]))
        if call.activation is not None:
            z.clamp_(0, top(call.activation))
        if z is not out:
            out.copy_(z)
    return y


def largest(x: Tensor) -> Tensor:
    """Largest magnitude of each channel.

    Shape:
        - x: ``(N, C, *)``
        - Output: ``(C,)``
    """
    blocks = _blocks(x)
    scratch = _Scratch(x, blocks[0])
    found = x.new_zeros(x.shape[1], dtype=accumulate_dtype(x.dtype))
    for s in blocks:
        magnitude = torch.abs(scratch.wide(x[s]), out=scratch.of(x[s]))
        torch.maximum(found, magnitude.amax(reduce_dims(x)), out=found)
    return found


class Kept(NamedTuple):
    """What forward leaves for ``backward``: ``x``, or ``bits`` and the residual in its place.

    ``y`` is there with an activation.
    """

    statistics: Statistics
    x: Tensor | None
    y: Tensor | None
    residual: Tensor | None
    bits: Bits | None


def backward(
    grad: Tensor,
    call: Call,
    kept: Kept,
    of_x: bool,
    of_residual: bool,
    reduce: Reduce | None = None,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Compute the gradients of ``forward``.

    Returns:
        ``(dx, dγ, dβ, g)``: dx where it is wanted, and the gradient before the activation, which
        is the residual's. Where that is not wanted it may have been overwritten. dγ and dβ are of
        this process alone.

    Shape:
        - grad, dx, g: ``(N, C, *)``
    """
    like = kept.x if kept.y is None else kept.y
    assert like is not None  # one of them is kept
    blocks = _blocks(like) if kept.bits is None else kept.bits.blocks
    scratch = tuple(_Scratch(like, blocks[0]) for _ in range(3))
    # The gradient before the activation lies where dx will, unless it is a result too.
    g = grad if call.activation is None else torch.empty_like(like)
    dbias, product = _Sum(), _Sum()
    for s in blocks:
        if call.activation is not None and kept.y is not None:
            _through_activation(grad[s], kept.y[s], call.activation, g[s])
        wide = scratch[0].wide(g[s])
        dbias.add(wide)
        product.add(_normalized(kept, call, s, scratch[1:]).mul_(wide))
    scale = kept.statistics.scale
    found = product.total().to(scale.dtype)
    divisor = scale if kept.x is not None else call.weight
    dweight = found if divisor is None else found / divisor.to(scale.dtype)
    db = dbias.total().to(scale.dtype)
    all_dweight, all_db = (dweight, db) if reduce is None else reduce(dweight, db)
    dx = None
    if of_x:
        dx = g if g is not grad and not of_residual else torch.empty_like(like)
        terms = _terms(call, kept.statistics, all_dweight, all_db)
        _of_input(dx, g, terms, kept, blocks, scratch)
    return dx, dweight, db, g


def _through_activation(grad: Tensor, y: Tensor, activation: Activation, out: Tensor) -> None:
    """The gradient where the activation passes it, by ReLU's own backward.

    That is four times as fast as ``where``, but lets NaN pass: it gets ones and zeros instead.
    """
    torch.gt(y, 0, out=out)
    bound = top(activation)
    assert bound is not None  # it clips
    if bound != math.inf:
        out.mul_(torch.lt(y, bound, out=torch.empty_like(out)))
    torch.ops.aten.threshold_backward.grad_input(grad, out, 0, grad_input=out)


def _normalized(kept: Kept, call: Call, s: Place, scratch: tuple[_Scratch, ...]) -> Tensor:
    """x̂, but for a factor per channel, of a block and in scratch memory."""
    one, other = scratch
    if kept.x is not None:
        wide = one.wide(kept.x[s])
        return torch.sub(wide, per_channel(kept.statistics.mean, wide), out=one.of(wide))
    assert kept.y is not None  # kept in the place of x
    wide = one.wide(kept.y[s])
    z = one.of(wide)
    if call.bias is not None:
        wide = torch.sub(wide, per_channel(call.bias.to(wide.dtype), wide), out=z)
    if kept.residual is not None:
        wide = torch.sub(wide, other.wide(kept.residual[s]), out=z)
    return z if wide is z else z.copy_(wide)


class _Terms(NamedTuple):
    """Equation (8) as ``factor·g + step·b + shift`` with b = 0 or 1, a number per channel each."""

    factor: Tensor
    step: Tensor
    shift: Tensor


def _terms(call: Call, statistics: Statistics, dweight: Tensor, dbias: Tensor) -> _Terms:
    _, scale, share, count = statistics
    assert share is not None  # counted for this gradient
    factor = gain(call.weight, scale)
    step = factor * (dweight / count).to(scale.dtype) * above_floor(scale, call.eps) * (-2 * K)
    return _Terms(factor, step, -factor * (dbias / count).to(scale.dtype) - step * share)


def _of_input(
    dx: Tensor,
    g: Tensor,
    terms: _Terms,
    kept: Kept,
    blocks: list[Place],
    scratch: tuple[_Scratch, ...],
) -> None:
    """Gradient of x, written to ``dx``."""
    factor, step, shift = (per_channel(v, dx) for v in terms)
    for s, b in zip(blocks, _zeros_and_ones(kept, blocks, scratch), strict=True):
        out = dx[s]
        through_scale = b.mul_(step).add_(shift)
        z = out if out.dtype is b.dtype else scratch[0].of(out)
        torch.mul(scratch[0].wide(g[s]), factor, out=z).add_(through_scale)
        if z is not out:
            out.copy_(z)


def _zeros_and_ones(
    kept: Kept, blocks: list[Place], scratch: tuple[_Scratch, ...]
) -> Iterator[Tensor]:
    """Each block's sign bits as numbers, in the second scratch memory."""
    if kept.bits is not None:
        for bits in kept.bits.each():
            # PyTorch converts bytes ten times as fast as booleans.
            yield scratch[1].of(bits).copy_(bits.view(torch.uint8))
    elif kept.x is not None:
        for s in blocks:
            wide = scratch[0].wide(kept.x[s])
            yield torch.ge(wide, per_channel(kept.statistics.mean, wide), out=scratch[1].of(wide))
