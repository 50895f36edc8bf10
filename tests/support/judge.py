"""Judge a backend by the closed form in float64, and by the eager formula's own error."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from l1bn import reference
from l1bn.activation import Activation, split
from l1bn.ops import formula
from l1bn.ops.records import Call
from l1bn.ops.registry import registry

Result = dict[str, Tensor]


@dataclass
class Case:
    """Inputs of one training call and the gradient that comes back."""

    x: Tensor
    grad: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: Activation | None = None
    eps: float = 1e-5

    def leaves(self) -> dict[str, Tensor]:
        named = {"x": self.x, "weight": self.weight, "bias": self.bias, "residual": self.residual}
        return {
            k: v.detach().clone(memory_format=torch.preserve_format).requires_grad_()
            for k, v in named.items()
            if v is not None
        }


def make_case(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    activation: Activation | None = None,
    residual: bool = False,
    affine: bool = True,
    layout: str = "contiguous",
    mean: float = 0.3,
    std: float = 1.0,
    skewed: bool = False,
    seed: int = 0,
) -> Case:
    """Draw a case; γ has both signs, channels differ in mean and spread."""
    rng = torch.Generator().manual_seed(seed)
    channels = shape[1]
    view = (1, -1, *[1] * (len(shape) - 2))

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    drawn = normal(*shape)
    x = (
        mean
        + std * (drawn.exp() if skewed else drawn) * (0.5 + normal(channels).abs()).view(view)
        + std * normal(channels).view(view)
    )
    weight = (0.4 + normal(channels).abs()) * torch.where(normal(channels) > -0.5, 1.0, -1.0)
    parameter_dtype = torch.float64 if dtype == torch.float64 else torch.float32

    def laid_out(v: Tensor) -> Tensor:
        return lay_out(v.to(dtype), layout)

    return Case(
        x=laid_out(x),
        # Leaning towards x: else the means in the gradient's formula are about 0 and test nothing.
        grad=laid_out(normal(*shape) + drawn / 2),
        weight=weight.to(parameter_dtype) if affine else None,
        bias=(0.3 * normal(channels)).to(parameter_dtype) if affine else None,
        residual=laid_out(normal(*shape)) if residual else None,
        activation=activation,
    )


def lay_out(v: Tensor, layout: str) -> Tensor:
    """Give a tensor a memory layout without changing its values."""
    if layout == "channels_last":
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        return v.contiguous(memory_format=formats[v.dim()]) if v.dim() in formats else v
    if layout == "strided":  # every second element along the last dimension
        wide = torch.full((*v.shape[:-1], 2 * v.shape[-1]), float("nan"), dtype=v.dtype)
        wide[..., ::2] = v
        return wide[..., ::2]
    if layout == "transposed":
        return v.transpose(0, 1).contiguous().transpose(0, 1)
    return v.contiguous()


def off_the_kinks(case: Case) -> Case:
    """Zero the gradient where rounding decides on which side of a kink an element lies."""
    if case.activation is None:
        return case
    plain = judge(replace(case, activation=None))
    view = (1, -1, *[1] * (case.x.dim() - 2))
    factor = (1 if case.weight is None else case.weight.double().abs()) / plain["scale"]
    # z is uncertain by its own rounding, and by that of x carried through γ/σ.
    width = 4 * torch.finfo(case.x.dtype).eps * (1 + plain["y"].abs())
    if case.x.dtype in (torch.float32, torch.float64):
        width = width + 4 * torch.finfo(case.x.dtype).eps * case.x.double().abs() * factor.view(
            view
        )
    near = torch.zeros_like(width, dtype=torch.bool)
    for kink in split(case.activation)[0].kinks:
        near |= (plain["y"] - kink).abs() < width
    grad = torch.where(near, 0.0, case.grad.double()).to(case.grad.dtype)
    return replace(case, grad=grad if near.any() else case.grad)


def judge(case: Case) -> Result:
    """The closed form of reference.py, in float64."""

    def wide(v: Tensor | None, like: float) -> Tensor:
        if v is None:
            return torch.full((case.x.shape[1],), like, dtype=torch.float64)
        return v.double()

    x, grad = case.x.double(), case.grad.double()
    weight, bias = wide(case.weight, 1.0), wide(case.bias, 0.0)
    residual = None if case.residual is None else case.residual.double()
    y, stats = reference.forward(x, weight, bias, residual, case.activation, case.eps)
    grads = reference.backward(grad, x, weight, bias, residual, case.activation, case.eps)
    out = {"y": y, "mean": stats.mean, "scale": stats.scale, "dx": grads.input}
    if case.weight is not None:
        out |= {"dweight": grads.weight, "dbias": grads.bias}
    if grads.residual is not None:
        out["dresidual"] = grads.residual
    return out


def _collect(case: Case, train: object) -> Result:
    leaves = case.leaves()
    call = Call(leaves.get("weight"), leaves.get("bias"), case.activation, case.eps)
    y, mean, scale = train(leaves["x"], leaves.get("residual"), call)  # type: ignore[operator]
    y.backward(case.grad)
    out = {"y": y.detach(), "mean": mean, "scale": scale}
    return out | {f"d{k}": v.grad for k, v in leaves.items()}


def run(case: Case, backend: str) -> Result:
    """What a backend computes."""
    return _collect(case, registry.get(backend).train)


def run_formula(case: Case) -> Result:
    """What autograd makes of the eager formula at the case's dtype."""
    return _collect(case, formula.train)


def error(got: Tensor, want: Tensor, size: float = 0.0) -> float:
    """Error in the Euclidean norm, relative to the result or to the ``size`` of its terms.

    Infinite where ``got`` is not finite.
    """
    if not torch.isfinite(got).all():
        return float("inf")
    return float((got.double() - want).norm() / max(float(want.norm()), size, 1e-300))


def _sizes(case: Case, want: Result) -> dict[str, float]:
    """Norms of the terms that a result is a sum of; their rounding cannot vanish with it."""
    view = (1, -1, *[1] * (case.x.dim() - 2))
    grad = case.grad.double()
    weight = torch.ones_like(want["scale"]) if case.weight is None else case.weight.double()
    sizes = {"dx": float((grad * (weight / want["scale"]).view(view)).norm())}
    if case.activation is not None:
        # x̂ may be recovered from y as (y - residual - β)/γ, but not where γ is small against y.
        limit = 4.0 if case.x.dtype in (torch.float16, torch.bfloat16) else 16.0
        terms = grad * (want["y"] / weight.view(view)).clamp(-limit, limit)
        sizes["dweight"] = float(terms.norm())
    return sizes


def _rounding(name: str, dtype: torch.dtype) -> float:
    """Error that any order of operations may have.

    On a handful of elements one of two correct evaluations can be exact by luck, so a wide result
    gets the few roundings of the formula. A 16-bit result is rounded once; γ's gradient sums
    products of 16-bit numbers, one of which may be the output instead of the input. float64 has no
    wider format to sum in, neither here nor in the judge.
    """
    if dtype == torch.float64:
        return 8 * torch.finfo(dtype).eps
    if dtype not in (torch.float16, torch.bfloat16):
        return 4 * torch.finfo(dtype).eps
    if name in ("mean", "scale", "dbias"):
        return 4 * torch.finfo(torch.float32).eps
    return torch.finfo(dtype).eps / 2


def assert_judged(case: Case, backend: str) -> None:
    """Fail where a result's error exceeds twice the eager formula's, or that of rounding."""
    case = off_the_kinks(case)
    want, got, eager = judge(case), run(case, backend), run_formula(case)
    sizes = _sizes(case, want)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].shape == value.shape, name
        assert got[name].dtype == eager[name].dtype, name
        size = sizes.get(name, 0.0)
        allowed = max(2 * error(eager[name], value, size), _rounding(name, case.x.dtype))
        found = error(got[name], value, size)
        assert found <= allowed, f"{name}: error {found:.3g} above {allowed:.3g} ({backend})"


#: How far two evaluations of one function may lie apart: relative, and absolute where terms cancel.
#: ``None`` is torch.testing's own choice for a dtype.
TOLERANCES: dict[str, tuple[float | None, float | None]] = {
    "exact": (0.0, 0.0),  # the same bits
    "order": (None, None),  # the same terms in another order
    "double": (1e-12, 1e-13),  # another formula, in float64
    "double sums": (1e-9, 1e-10),  # the same for sums in which terms cancel
    "single": (2e-6, 2e-7),  # another formula, in float32
    "single sums": (1e-5, 1e-6),  # the same for sums in which terms cancel
    "cancelling": (1e-4, 1e-4),  # float32, where the terms are far above their difference
    "network": (2e-3, 2e-3),  # gradients through a whole network in float32
    "rounded": (2**-7, 2**-13),  # one rounding to a 16-bit format
    "half": (2**-7, 2**-7),  # another formula, in a 16-bit format
    "half sums": (2**-5, 2**-5),  # the same for sums of rounded numbers
    "eight-bit steps": (0.0, 0.05),  # outputs in steps of 1/16 against the real numbers
    "eight bits": (0.02, 0.0),  # integers of 8 bits against the real numbers they stand for
}


def assert_close(
    got: object, want: object, kind: str = "order", *, equal_nan: bool = False
) -> None:
    """Fail where two results differ by more than the table allows for that kind of comparison."""
    rtol, atol = TOLERANCES[kind]
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol, equal_nan=equal_nan)


def apart(got: Tensor, want: Tensor) -> float:
    """Largest difference, relative to the largest value: for results that must differ."""
    got, want = got.detach(), want.detach()
    return float((got - want).abs().max() / want.abs().max())
