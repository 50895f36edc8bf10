"""What every backend must do with infinities and NaN: docs/mathematics.md, "Infinities and NaN"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from judge import lay_out
from l1bn.functional import l1_batch_norm

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
BAD = [float("nan"), float("inf"), -float("inf")]


def _step(
    x: Tensor, grad: Tensor, residual: Tensor | None, activation: str | None, backend: str
) -> dict[str, Tensor]:
    channels = x.shape[1]
    weight = torch.linspace(1, 2, channels, requires_grad=True)
    mean, var = torch.zeros(channels), torch.ones(channels)
    y = l1_batch_norm(
        x.requires_grad_(), mean, var, weight, None, True,
        activation=activation, residual=residual, backend=backend,
    )  # fmt: skip
    dx, dweight = torch.autograd.grad(y, (x, weight), grad)
    return {"y": y.detach(), "mean": mean, "var": var, "dx": dx, "dweight": dweight}


def assert_a_bad_channel_is_nan_throughout(
    backend: str,
    shape: Sequence[int],
    dtype: torch.dtype,
    layout: str,
    activation: str | None,
    with_residual: bool = False,
    exact: bool = True,
) -> None:
    """One bad element: its channel is NaN and keeps its averages, the others are as without it.

    ``exact``: bit for bit. Not so where a backend keeps x or y by what the step before showed: two
    steps then differ in rounding, as any two do.
    """
    clean, grad, other = (lay_out(torch.randn(shape).to(dtype), layout) for _ in range(3))
    residual = other if with_residual else None
    want = _step(clean.clone(), grad, residual, activation, backend)
    for bad in BAD:
        x = clean.clone()
        x[(shape[0] // 2, 1, *[1] * (len(shape) - 2))] = bad
        got = _step(x, grad, residual, activation, backend)
        assert got["mean"][1] == 0, bad
        assert got["var"][1] == 1, bad
        for name in ("y", "dx", "dweight"):
            found = got[name][1] if got[name].dim() == 1 else got[name][:, 1]
            assert found.isnan().all(), (name, bad)
        others = torch.tensor([c for c in range(shape[1]) if c != 1])
        for name, value in want.items():
            dim = min(value.dim() - 1, 1)
            pair = [v.index_select(dim, others) for v in (got[name], value)]
            close = torch.equal if exact else torch.allclose
            assert close(*pair), (name, bad)


def assert_an_infinite_output_passes_its_gradient_and_nan_none(
    backend: str, shape: Sequence[int], dtype: torch.dtype, layout: str, activation: str
) -> None:
    """Infinity passes one through ReLU and none through ReLU6; NaN passes none through either."""
    x = lay_out(torch.randn(shape).to(dtype), layout).requires_grad_()
    residual = torch.zeros(shape, dtype=dtype)
    residual[1, 0], residual[1, 1], residual[0, 1] = float("inf"), float("nan"), -float("nan")
    residual = lay_out(residual, layout).requires_grad_()
    y = l1_batch_norm(
        x, None, None, training=True, activation=activation, residual=residual, backend=backend
    )
    assert (y[1, 0] == (float("inf") if activation == "relu" else 6)).all()
    assert y[1, 1].isnan().all()
    (found,) = torch.autograd.grad(y, residual, torch.ones_like(y))
    assert (found[1, 0] == (activation == "relu")).all()
    assert (found[1, 1] == 0).all()
    assert (found[0, 1] == 0).all()


def assert_running_statistics_stay_finite(
    backend: str, dtype: torch.dtype, buffers: torch.dtype
) -> None:
    """Batches of any size: both averages of a channel move, or neither, and to finite values."""
    rng = torch.Generator().manual_seed(0)
    for size in (1e2, 1e5, 1e20, 1e39, 1e200):
        x = torch.randn(8, 3, 4, 4, generator=rng, dtype=torch.float64)
        x[:, 1] *= size
        mean, var = (torch.full((3,), v, dtype=buffers) for v in (0.5, 1.5))
        l1_batch_norm(x.to(dtype), mean, var, training=True, backend=backend)
        assert mean.isfinite().all()
        assert var.isfinite().all()
        assert (mean[1] == 0.5) == (var[1] == 1.5), size
        assert mean[0] != 0.5
        if size == 1e2:
            assert mean[1] != 0.5


def assert_elements_without_gradient_add_nothing_in_evaluation(
    backend: str, shape: Sequence[int], dtype: torch.dtype, layout: str, activation: str
) -> None:
    """γ's gradient of a layer in evaluation, where what the activation cuts off is not finite."""
    channels = shape[1]
    x, grad = (lay_out(torch.randn(shape).to(dtype), layout) for _ in range(2))
    flat, bad = x.movedim(1, 0).reshape(channels, -1).clone(), torch.tensor(BAD, dtype=dtype)
    flat[1, : len(bad)] = bad
    x.movedim(1, 0).copy_(flat.reshape(x.movedim(1, 0).shape))
    # An infinite output passes its gradient: 0 adds nothing.
    grad.movedim(1, 0)[1] = torch.where(x.movedim(1, 0)[1] == BAD[1], 0, grad.movedim(1, 0)[1])
    wide = torch.promote_types(dtype, torch.float32)
    weight = torch.linspace(1, 2, channels, dtype=wide, requires_grad=True)
    bias = torch.linspace(-1, 1, channels, dtype=wide, requires_grad=True)
    mean, var = torch.zeros(channels, dtype=wide), torch.ones(channels, dtype=wide)
    y = l1_batch_norm(
        x.requires_grad_(), mean, var, weight, bias, False,
        activation=activation, backend=backend,
    )  # fmt: skip
    got = torch.autograd.grad(y, (weight, bias), grad)
    alive = (y > 0) & (y < 6 if activation == "relu6" else True) & (grad != 0)
    kept = [torch.where(alive, v.detach(), 0).double() for v in (grad, x)]
    over = [d for d in range(x.dim()) if d != 1]
    scale = 1 / (1 + 1e-5) ** 0.5
    want = (kept[0] * kept[1] * scale).sum(over), kept[0].sum(over)
    for found, right in zip(got, want, strict=True):
        judge_sum(found, right, kept[0], dtype)


def judge_sum(found: Tensor, want: Tensor, terms: Tensor, dtype: torch.dtype) -> None:
    """Compare sums over all dimensions but 1 to what rounding of y moves them by."""
    over = [d for d in range(terms.dim()) if d != 1]
    allowed = 8 * torch.finfo(dtype).eps * terms.abs().sum(over) + 1e-6
    assert found.isfinite().all(), found
    assert ((found.double() - want).abs() <= allowed).all(), (found, want)
