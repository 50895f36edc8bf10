"""The native backend: instruction sets, threads, what it keeps, when it falls back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from judge import Case, assert_close, assert_judged, error, judge, lay_out, make_case, run
from l1bn.ops.cpu import kernels as cpu_kernels
from l1bn.ops.cpu.backend import BACKEND
from l1bn.ops.cpu.layout import Layout, sign_bits, to_layout
from l1bn.ops.native import float_norm as _native
from l1bn.ops.native.float_norm import Native
from l1bn.ops.records import Call, Running

if isinstance(cpu_kernels.NATIVE, str):
    pytest.skip(cpu_kernels.NATIVE, allow_module_level=True)
NATIVE: Native = cpu_kernels.NATIVE

LAYOUTS = ["contiguous", "channels_last"]


@pytest.fixture(params=NATIVE.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = NATIVE.isa()
    NATIVE.select(request.param)
    yield request.param
    NATIVE.select(before)


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def bits_of(x: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Layout]:
    """A forward call with ReLU: y, statistics, bits and layout."""
    return cpu_kernels.forward(x, None, Call(None, None, "relu", 1e-5), True, None)


def kept(case: Case) -> list[Tensor]:
    """What a training call keeps for backward, less its parameters."""
    saved: list[Tensor] = []
    leaves = case.leaves()

    def pack(v: Tensor) -> Tensor:
        saved.append(v)
        return v

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.clone):
        call = Call(leaves.get("weight"), leaves.get("bias"), case.activation, case.eps)
        BACKEND.train(leaves["x"], leaves.get("residual"), call)
    given = {leaves[k].data_ptr() for k in ("weight", "bias") if k in leaves}
    return [v for v in saved if v.data_ptr() not in given]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", cpu_kernels.DTYPES, ids=lambda d: str(d)[6:])
def test_every_instruction_set(isa: str, dtype: torch.dtype, layout: str) -> None:
    for shape in [(3, 37, 9, 7), (3, 6, 9, 5), (2, 16, 32, 65)]:
        for activation, residual in [(None, False), ("relu", True), ("relu6", False)]:
            case = make_case(shape, dtype, activation=activation, residual=residual, layout=layout)
            assert_judged(case, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("channels", [16, 32, 64, 128, 256])
def test_rows_whose_sums_stay_in_registers(
    isa: str, channels: int, residual: bool, dtype: torch.dtype
) -> None:
    for rows in (3, 133):
        shape = (rows, channels)
        case = make_case(shape, dtype, activation="relu6", residual=residual, mean=3.0)
        assert_judged(case, "cpu")


# float64, whose judge is no more exact over so many rows, is driven in tests/native.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", range(2, 16))
def test_rows_of_fewer_channels_than_lanes(isa: str, channels: int, dtype: torch.dtype) -> None:
    # Above and below where that code begins; the last step and the last pack are not whole.
    for rows in (2048 // channels - 1, 2300 // channels + 7):
        for activation, residual in [(None, False), ("relu", True)]:
            shape = (rows, channels)
            assert_judged(make_case(shape, dtype, activation=activation, residual=residual), "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 33, 3, 3), (300, 5, 2), (17, 64, 2, 2), (50, 3, 15)])
def test_planes_of_fewer_elements_than_lanes(
    isa: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    for activation, residual in [(None, False), ("relu", True)]:
        assert_judged(make_case(shape, dtype, activation=activation, residual=residual), "cpu")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(8, 3, 80, 80), (16, 64, 16, 16), (4096, 8), (30001, 5), (2048, 24), (70, 256, 3, 3)]
)
def test_threads_change_nothing_but_rounding(
    threads: int, shape: tuple[int, ...], layout: str
) -> None:
    case = make_case(shape, activation="relu", residual=True, layout=layout)
    assert_judged(case, "cpu")


def test_the_process_lends_its_threads() -> None:
    assert NATIVE.threaded()


def test_with_relu_one_bit_is_kept_instead_of_the_input() -> None:
    case = make_case((8, 32, 16, 16), activation="relu")
    sizes = {(v.dtype, v.numel()) for v in kept(case)}
    elements = case.x.numel()
    assert (torch.uint8, elements // 8) in sizes  # the bits
    (y,) = (v for v in kept(case) if v.dtype == torch.float32 and v.numel() == elements)
    assert (y >= 0).all()  # the output, not the input


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda c: c.weight.__setitem__(3, 0.0), "a zero-initialised γ"),
        (lambda c: c.weight.__setitem__(3, 1e-3), "a γ small against β"),
        (lambda c: c.residual.__setitem__((0, 3, 0, 0), 1e3), "a residual that drowns γ·x̂"),
        (lambda c: c.x[:, 3].zero_(), "a constant channel"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_input_is_kept_where_it_cannot_be_recovered(change, why: str, layout: str) -> None:
    case = make_case((4, 20, 8, 8), activation="relu", residual=True, layout=layout)
    assert case.bias is not None
    case.bias[3] = 0.3
    full = [v for v in kept(case) if v.numel() == case.x.numel()]
    assert len(full) == 2  # y and the residual
    assert any(v.dtype == torch.uint8 for v in kept(case))
    change(case)
    after = kept(case)
    assert not any(v.dtype == torch.uint8 for v in after), why
    assert_judged(case, "cpu")


def test_without_an_activation_the_input_is_kept_and_no_bits() -> None:
    case = make_case((4, 20, 8, 8))
    assert [v.numel() for v in kept(case)] == [case.x.numel(), 3 * 20]


def test_nothing_is_kept_where_nothing_is_wanted() -> None:
    case = make_case((4, 20, 8, 8), activation="relu")
    with torch.no_grad():
        assert kept(case) == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape",
    [
        *[(5, 3), (40, 16), (9, 37), (2, 3, 3, 3), (3, 5, 7, 7), (2, 33, 6, 9), (1, 2, 50, 50)],
        *[(131, 32), (67, 64), (65, 128), (7, 256), (5, 96), (3001, 1), (1003, 12), (30, 7, 9, 9)],
        *[(60, 9, 2, 2), (77, 7, 5), (20, 31, 3, 3)],
    ],
)
def test_bits_tell_the_side_of_the_mean(shape: tuple[int, ...], layout: str) -> None:
    x = make_case(shape, layout=layout, mean=1000.0).x
    _, _, bits, found = bits_of(x)
    assert found == to_layout(x)[1]
    assert bits is not None
    dims = [0, *range(2, x.dim())]
    want = x.double() >= x.double().mean(dims, keepdim=True)
    assert torch.equal(sign_bits(bits, found, x.shape), want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("inner", [(4, 4), (7, 7), (5, 13), (48, 43)])
@pytest.mark.parametrize("mean", [0.0, 1e-3, -0.5, 3.0, -200.0, 1000.0])
def test_statistics_and_bits_of_bfloat16(
    isa: str, mean: float, inner: tuple[int, int], layout: str
) -> None:
    rng = torch.Generator().manual_seed(2)
    x = 4 * torch.randn(9, 6, *inner, generator=rng) + mean
    x[:, 1] = mean  # constant
    x[:, 2] *= torch.where(torch.rand(x[:, 2].shape, generator=rng) < 0.5, 0, 1)  # -0 and 0
    x[:, 3, 0, 0] = 40 * (abs(mean) + 1)  # far from the others, and the first value
    x = lay_out(x.bfloat16(), layout)
    _, statistics, bits, _ = bits_of(x)
    wide = x.double()
    middle = wide.mean((0, 2, 3), keepdim=True)
    deviation = (wide - middle).abs().mean((0, 2, 3)) * (torch.pi / 2) ** 0.5
    assert_close(statistics[2].double(), deviation.clamp_min(1e-5**0.5), "single")
    exact = statistics[0].double() + statistics[1].double()
    assert_close(exact, middle.flatten(), "single")
    assert bits is None  # of the constant channel nothing can be recovered
    assert_bits(lay_out(x[:, [0, 2, 3, 4, 5]], layout))


def assert_bits(x: Tensor) -> None:
    _, _, bits, found = bits_of(x)
    middle = x.double().mean((0, 2, 3), keepdim=True)
    assert bits is not None
    assert torch.equal(sign_bits(bits, found, x.shape), x.double() >= middle)


def test_bits_of_bfloat16_where_the_mean_is_zero(isa: str) -> None:
    rng = torch.Generator().manual_seed(3)
    half = torch.randn(4, 3, 6, 7, generator=rng)
    half[:, :, :2] = 0
    x = torch.cat([half, -half]).bfloat16()
    assert (x.double().mean((0, 2, 3)) == 0).all()
    assert_bits(x)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("changed", [0, -1])
def test_a_mean_just_beside_a_value_of_bfloat16(isa: str, sign: int, changed: int) -> None:
    # (float) mean is a bfloat16 number, the mean itself is not.
    x = torch.full((64, 2, 64, 64), 201.0)
    x[:32] = 199
    x[changed, :, 0, 0] = 200
    x = sign * x.bfloat16()
    _, statistics, _, _ = bits_of(x)
    wide = x.double()
    middle = wide.mean((0, 2, 3), keepdim=True)
    want = (wide - middle).abs().mean((0, 2, 3)) * (torch.pi / 2) ** 0.5
    assert_close(statistics[2].double(), want, "single sums")
    assert_bits(x)


@pytest.mark.parametrize("odd_one", [float("nan"), float("inf"), -float("inf")])
def test_a_channel_that_is_not_finite_leaves_the_others(isa: str, odd_one: float) -> None:
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(3, 2, 9, 9, generator=rng).bfloat16()
    want = bits_of(x)[1]
    x[1, 0, 3, 3] = odd_one
    found = bits_of(x)[1]
    assert found[2, 0].isnan()
    assert torch.equal(found[:, 1], want[:, 1])


@pytest.mark.parametrize("shape", [(6, 20, 9, 9), (50, 7), (2, 5, 3, 3)])
@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_second_derivative_without_the_input(shape: tuple[int, ...], activation: str) -> None:
    case = make_case(shape, torch.float64, activation=activation, residual=True)
    leaves = case.leaves()

    def second(backend: object) -> list[Tensor]:
        call = Call(leaves["weight"], leaves["bias"], activation, 1e-5)
        y, _, _ = backend.train(leaves["x"], leaves["residual"], call)  # type: ignore[attr-defined]
        (dx,) = torch.autograd.grad(y, leaves["x"], case.grad, create_graph=True)
        inputs = list(leaves.values())
        # β and the residual matter only where the activation's mask changes.
        found = torch.autograd.grad(dx.square().sum(), inputs, allow_unused=True)
        return [torch.zeros_like(v) if g is None else g for v, g in zip(inputs, found, strict=True)]

    from l1bn.ops.eager.backend import BACKEND as EAGER

    assert any(v.dtype == torch.uint8 for v in kept(case))
    for got, want in zip(second(BACKEND), second(EAGER), strict=True):
        assert_close(got, want, "single")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize("wanted", [("x",), ("x", "weight", "bias", "residual"), ("weight",)])
def test_frozen_statistics(activation: str, wanted: tuple[str, ...], layout: str) -> None:
    case = make_case(
        (4, 20, 7, 9), torch.float64, activation=activation, residual=True, layout=layout
    )
    mean, var = torch.randn(20).double(), torch.rand(20).double() + 0.5
    results = []
    from l1bn.ops.eager.backend import BACKEND as EAGER

    for backend in (BACKEND, EAGER):
        leaves = {k: v.requires_grad_(k in wanted) for k, v in case.leaves().items()}
        call = Call(leaves["weight"], leaves["bias"], activation, 1e-5)
        y = backend.evaluate(leaves["x"], leaves["residual"], call, Running(mean, var))
        y.backward(case.grad)
        results.append([y.detach(), *(leaves[k].grad for k in wanted)])
    for got, want in zip(*results, strict=True):
        assert_close(got, want, "double sums")


def test_a_frozen_layer_keeps_only_what_its_gradients_need() -> None:
    saved: list[Tensor] = []
    x = torch.randn(4, 8, 6, 6, requires_grad=True)
    weight, bias = torch.rand(8) + 0.5, torch.zeros(8)

    def pack(v: Tensor) -> Tensor:
        saved.append(v)
        return v

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.clone):
        running = Running(torch.zeros(8), torch.ones(8))
        BACKEND.evaluate(x, None, Call(weight, bias, "relu", 1e-5), running)
    # For the activation's mask; what each mode keeps is in tests/ops/test_kept.py.
    assert sum(v.nbytes for v in saved if v.numel() > 8) == x.numel() // 8


def test_second_derivative_of_a_frozen_layer() -> None:
    leaves = [
        torch.randn(3, 4, 5, 5, dtype=torch.float64, requires_grad=True),
        torch.rand(4, dtype=torch.float64, requires_grad=True),
        torch.randn(4, dtype=torch.float64, requires_grad=True),
    ]
    mean, var = torch.zeros(4).double(), torch.ones(4).double()

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return BACKEND.evaluate(x, None, Call(weight, bias, "relu", 1e-5), Running(mean, var))

    assert torch.autograd.gradgradcheck(call, leaves)


def test_parameters_of_two_dtypes_are_refused() -> None:
    x, weight = torch.randn(4, 3), torch.ones(3)
    reason = BACKEND.unsupported(x, weight, weight.double(), None)
    assert reason is not None
    assert reason.startswith("weight and bias need one floating-point dtype, got")
    assert BACKEND.unsupported(x.int(), None, None, None) is not None


def test_half_precision_parameters() -> None:
    case = make_case((8, 20, 6, 6), torch.bfloat16, activation="relu")
    assert case.weight is not None
    assert case.bias is not None
    case.weight, case.bias = case.weight.bfloat16(), case.bias.bfloat16()
    got, want = run(case, "cpu"), judge(case)
    assert got["dweight"].dtype == torch.bfloat16
    assert error(got["y"], want["y"]) < 4e-3
    assert error(got["dweight"], want["dweight"]) < 2e-2


def test_a_missing_library_says_so(tmp_path: Path) -> None:
    found = _native.load(tmp_path / "nothing.so")
    assert isinstance(found, str)
    assert "does not exist: it was not built" in found
    (tmp_path / "libl1bn.so").write_bytes(b"no library")
    found = _native.load(tmp_path / "libl1bn.so")
    assert isinstance(found, str)
    assert "cannot be loaded" in found


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one of \[.*\], got 'mmx'"):
        NATIVE.select("mmx")


@pytest.mark.slow
def test_the_c_interface_without_torch() -> None:
    driver = Path(__file__).parents[2] / "native" / "drive.py"
    done = subprocess.run(
        [sys.executable, str(driver), str(NATIVE.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "passed, 0 failed" in done.stdout
