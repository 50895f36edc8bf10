"""Every backend against the judge, over dtypes, layouts, shapes and kinds of data."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from judge import Case, assert_close, assert_judged, error, judge, lay_out, make_case, run
from l1bn.activation import DESCRIPTIONS, Activation
from l1bn.functional import l1_batch_norm
from l1bn.ops.records import Call
from l1bn.ops.registry import computes, registry

SHAPES = [
    (2, 1),
    (33, 7),
    (256, 100),
    (5, 4, 9),
    (3, 5, 1, 1),
    (4, 16, 1, 1),
    (1, 3, 5, 7),
    (2, 3, 8, 8),
    (3, 67, 13, 5),
    (8, 32, 16, 16),
    (2, 5, 3, 4, 5),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = ["contiguous", "channels_last", "strided", "transposed"]
#: A path of the native kernels each.
CURVED = [
    ((3, 67, 13, 5), "contiguous"),
    ((3, 67, 13, 5), "channels_last"),
    ((4, 32, 16, 16), "channels_last"),
    ((5, 301), "contiguous"),
    ((2, 3, 48, 47), "contiguous"),
    ((300, 5), "contiguous"),
    ((90, 4, 3, 3), "contiguous"),
    ((2, 3, 2, 2), "strided"),
    ((4, 3), "contiguous"),
]
ACTIVATIONS = [None, "relu", "relu6"]
#: The others, with parameters that can and cannot be told from the output.
CURVES: list[Activation] = [
    *[name for name in DESCRIPTIONS if name not in ACTIVATIONS],
    ("leaky_relu", 0.3), ("leaky_relu", -0.5), ("elu", 0.5), ("elu", -1.0),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_shapes_and_dtypes(
    backend: str, shape: tuple[int, ...], dtype: torch.dtype, activation: str | None
) -> None:
    assert_judged(make_case(shape, dtype, activation=activation), backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_layouts_and_residual(
    backend: str, activation: str | None, residual: bool, layout: str, dtype: torch.dtype
) -> None:
    for shape in [(3, 20, 9, 6), (2, 6, 3, 4, 5), (40, 9)]:
        case = make_case(shape, dtype, activation=activation, residual=residual, layout=layout)
        assert_judged(case, backend)


def _with(backend: str, activation: Activation) -> str:
    if not computes(registry.get(backend), activation):
        pytest.skip(f"{backend} leaves {activation} to PyTorch")
    return backend


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("activation", CURVES, ids=str)
def test_curved_activations(backend: str, activation: Activation, dtype: torch.dtype) -> None:
    # Of the formats that are computed in single precision the paths differ in loads and stores.
    for i, (shape, layout) in enumerate(CURVED[:: 1 if dtype == torch.float32 else 3]):
        case = make_case(
            shape, dtype, activation=activation, residual=bool(i % 2), layout=layout, std=3.0
        )
        assert_judged(case, _with(backend, activation))


@pytest.mark.parametrize("activation", CURVES, ids=str)
def test_curved_activations_in_hard_cases(backend: str, activation: Activation) -> None:
    """Skewed, far from 0, with γ of 0, below the floor, and with values that saturate."""
    case = make_case((3, 8, 9, 19), skewed=True, activation=activation, residual=True)
    assert_judged(case, _with(backend, activation))
    case = make_case((8, 6, 20, 20), mean=1000.0, activation=activation)
    assert_judged(case, backend)
    case = make_case((6, 5, 8, 8), activation=activation)
    case.x[:, 0] = 5.0
    assert case.weight is not None
    case.weight[1], case.weight[2], case.weight[3] = 0.0, 1e-6, 60.0
    assert_judged(case, backend)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(4, 20, 9, 7), (40, 3, 2, 2), (300, 24), (3, 5)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_bent_output_is_rounded_once(
    backend: str, layout: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    case = make_case(shape, dtype, activation="silu", layout=layout, std=3.0)
    _with(backend, "silu")
    assert case.weight is not None
    case.weight[0] = 3e4  # z leaves float16 on either side
    got, want = run(case, backend)["y"].double(), judge(case)["y"]
    assert not got[:, 0].isnan().any()
    got, want = got[:, 1:], want[:, 1:]
    unit = torch.finfo(dtype).eps / 2
    # And where z is near 0 what single precision leaves of its terms.
    single = 32 * torch.finfo(torch.float32).eps
    room = 1.05 * unit * want.abs() + unit * torch.finfo(dtype).smallest_normal + single
    assert bool(((got - want).abs() <= room).all())


@pytest.mark.parametrize("activation", ["elu", ("elu", -1.0), ("leaky_relu", 0.3), "silu"], ids=str)
def test_curved_gradcheck_and_double_backward(backend: str, activation: Activation) -> None:
    x, residual = torch.randn(2, 4, 3, 3, 2, dtype=torch.float64)
    weight, bias = torch.randn(2, 3, dtype=torch.float64)
    leaves = [v.clone().requires_grad_() for v in (x, weight, bias, residual)]
    train = registry.get(_with(backend, activation)).train

    def call(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return train(x, residual, Call(weight, bias, activation, 1e-5))[0]

    assert gradcheck(call, leaves)
    assert gradgradcheck(call, leaves)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_skewed_data(backend: str, activation: str | None, affine: bool, layout: str) -> None:
    case = make_case(
        (3, 8, 9, 19), skewed=True, affine=affine, activation=activation, layout=layout
    )
    assert_judged(case, backend)
    leak = run(case, backend)["dx"].double().sum((0, 2, 3)).abs().max()
    assert leak < 1e-3


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_mean_a_thousand_times_the_deviation(
    backend: str, activation: str | None, layout: str
) -> None:
    case = make_case((8, 6, 40, 40), mean=1000.0, activation=activation, layout=layout)
    assert_judged(case, backend)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "layout", "mean"),
    [(1, "contiguous", 0.0), (1, "contiguous", 1000.0), (2, "channels_last", 1000.0)],
)
def test_ten_million_elements_per_channel(
    backend: str, channels: int, layout: str, mean: float
) -> None:
    assert_judged(make_case((10, channels, 1000, 1000), mean=mean, layout=layout), backend)


@pytest.mark.parametrize("gradient", ["expanded", "strided", "channels_last"])
def test_gradient_of_any_layout(backend: str, gradient: str) -> None:
    case = make_case((4, 6, 5, 8), activation="relu")
    if gradient == "expanded":
        case.grad = torch.full((), 0.7).expand(case.x.shape)
    else:
        case.grad = lay_out(case.grad, gradient)
    assert_judged(case, backend)


@pytest.mark.usefixtures("poisoned_allocations")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_no_memory_is_read_before_it_is_written(
    backend: str, activation: str | None, dtype: torch.dtype, layout: str
) -> None:
    for shape in [(3, 67, 13, 5), (2, 3, 32, 32), (17, 5)]:
        case = make_case(shape, dtype, activation=activation, residual=True, layout=layout)
        assert_judged(case, backend)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gamma", [0.0, 1e-30, -1e-6, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_gamma_gives_no_wrong_gradient(
    backend: str, dtype: torch.dtype, gamma: float, activation: str | None
) -> None:
    case = make_case((6, 5, 8, 8), dtype, activation=activation, residual=True)
    assert case.weight is not None
    case.weight[::2] = gamma
    assert_judged(case, backend)


@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize(
    ("dtype", "gamma"),
    [(torch.float16, 1e-6), (torch.float16, 1e-7), (torch.bfloat16, 1e-39)],
    ids=str,
)
def test_gamma_gets_its_gradient_where_the_output_is_below_the_normal_numbers(
    backend: str, dtype: torch.dtype, gamma: float, activation: str
) -> None:
    """Such an output has few digits, and x̂ must not be read off it."""
    case = make_case((6, 5, 8, 8), dtype, activation=activation)
    case.weight, case.bias = torch.full((5,), gamma), torch.zeros(5)
    got = run(case, backend)
    one = torch.ones(5, dtype=torch.float64)
    hat = judge(Case(case.x, case.grad, one, eps=case.eps))["y"]
    g = torch.where(got["y"] > 0, case.grad.double(), 0.0)
    assert_close(got["dweight"].double(), (g * hat).sum((0, 2, 3)), "half")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_channels_below_the_floor(backend: str, activation: str | None, dtype: torch.dtype) -> None:
    case = make_case((4, 3, 6, 6), dtype, mean=0.0, activation=activation)
    case.x[:, 0] = 5.0
    case.x[:, 1] *= 1e-5
    assert_judged(case, backend)
    scale = run(case, backend)["scale"]
    torch.testing.assert_close(scale[:2].double(), torch.full((2,), 1e-5).double().sqrt())
    assert scale[2] > 0.1


def test_values_equal_to_the_mean_count_as_positive(backend: str) -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]).view(5, 1).repeat(1, 3)
    case = Case(x=x, grad=torch.randn(5, 3), weight=torch.ones(3), bias=torch.zeros(3))
    assert_judged(case, backend)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck_and_double_backward(backend: str, activation: str | None) -> None:
    x, residual = torch.randn(2, 4, 3, 3, 2, dtype=torch.float64)
    weight, bias = torch.randn(2, 3, dtype=torch.float64)
    leaves = [v.clone().requires_grad_() for v in (x, weight, bias, residual)]

    def call(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        call = Call(weight, bias, activation, 1e-5)
        return registry.get(backend).train(x, residual, call)[0]

    assert gradcheck(call, leaves)
    assert gradgradcheck(call, leaves)


def train(backend: str, leaves: dict[str, Tensor], activation: Activation | None) -> Tensor:
    """What a backend makes of a case's leaves."""
    call = Call(leaves.get("weight"), leaves.get("bias"), activation, 1e-5)
    return registry.get(backend).train(leaves["x"], leaves.get("residual"), call)[0]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("activation", [*ACTIVATIONS, ("leaky_relu", 0.3)], ids=str)
def test_a_first_derivative_of_which_there_may_be_a_second_is_the_same(
    backend: str, activation: Activation | None, layout: str
) -> None:
    if activation is not None:
        _with(backend, activation)
    case = make_case((3, 4, 5, 6), torch.float64, activation=activation, layout=layout)
    named = case.leaves()
    leaves = list(named.values())
    y = train(backend, named, activation)
    plain = torch.autograd.grad(y, leaves, case.grad, retain_graph=True)
    again = torch.autograd.grad(y, leaves, case.grad, create_graph=True)
    assert_close([v.detach() for v in again], list(plain), "double")


@pytest.mark.parametrize("wanted", [{"x"}, {"weight"}, {"bias"}, {"residual"}, {"x", "bias"}])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_only_the_wanted_gradients(backend: str, activation: str | None, wanted: set[str]) -> None:
    case = make_case((4, 3, 5, 5), activation=activation, residual=True)
    full = run(case, backend)
    leaves = {k: v.requires_grad_(k in wanted) for k, v in case.leaves().items()}
    y = train(backend, leaves, activation)
    y.backward(case.grad)
    for name, leaf in leaves.items():
        if name in wanted:
            assert leaf.grad is not None
            torch.testing.assert_close(leaf.grad, full[f"d{name}"])
        else:
            assert leaf.grad is None


def test_editing_the_fused_output_in_place_raises(backend: str) -> None:
    case = make_case((4, 3, 5, 5), activation="relu")
    leaves = case.leaves()
    y = train(backend, leaves, "relu")
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_in_place_relu_after_a_plain_layer_works(backend: str) -> None:
    case = make_case((4, 3, 5, 5))
    leaves = case.leaves()
    y = train(backend, leaves, None)
    torch.relu_(y).backward(case.grad)
    case.activation = "relu"
    want = judge(case)
    assert error(leaves["x"].grad, want["dx"]) < 1e-5


def test_output_keeps_the_memory_format(backend: str) -> None:
    x = make_case((2, 4, 5, 6), layout="channels_last").x
    y = l1_batch_norm(x, None, None, training=True, backend=backend)
    assert y.is_contiguous(memory_format=torch.channels_last)


finite = st.floats(-50, 50, allow_nan=False)
dimensions = st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))


@given(dims=dimensions, seed=st.integers(0, 999), shift=finite, gain=st.floats(0.1, 100))
@pytest.mark.parametrize("name", registry.available())
def test_invariant_to_shift_and_positive_scale(
    name: str, dims: tuple[int, ...], seed: int, shift: float, gain: float
) -> None:
    x = make_case(dims, torch.float64, seed=seed).x
    plain, call = registry.get(name).train, Call(None, None, None, 1e-30)
    y, mean, scale = plain(x, None, call)
    moved, new_mean, new_scale = plain(x * gain + shift, None, call)
    assert_close(moved, y, "double sums")
    assert_close(new_mean, mean * gain + shift, "double")
    assert_close(new_scale, scale * gain, "double")


@given(dims=dimensions, seed=st.integers(0, 999))
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("name", registry.available())
def test_input_gradient_sums_to_zero(
    name: str, activation: str | None, dims: tuple[int, ...], seed: int
) -> None:
    case = make_case(dims, torch.float64, seed=seed, skewed=True, activation=activation)
    dx = run(case, name)["dx"]
    assert float(dx.sum((0, 2, 3)).abs().max()) <= 1e-9 * float(dx.abs().sum() + 1)


@given(dims=dimensions, seed=st.integers(0, 999))
@pytest.mark.parametrize("name", registry.available())
def test_permuting_the_elements_permutes_the_results(
    name: str, dims: tuple[int, ...], seed: int
) -> None:
    case = make_case(dims, torch.float64, seed=seed, activation="relu")
    order = torch.randperm(dims[0], generator=torch.Generator().manual_seed(seed))
    permuted = Case(case.x[order], case.grad[order], case.weight, case.bias, None, "relu")
    plain, moved = run(case, name), run(permuted, name)
    assert_close(moved["y"], plain["y"][order], "double")
    assert_close(moved["dx"], plain["dx"][order], "double sums")
    assert_close(moved["dweight"], plain["dweight"], "double sums")
