"""l1_batch_norm: F.batch_norm's arguments, running statistics, and what it says of bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from judge import assert_close
from l1bn import L1BatchNorm2d, reference
from l1bn.functional import l1_batch_norm


def running(channels: int = 3, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    return torch.zeros(channels, dtype=dtype), torch.ones(channels, dtype=dtype)


def composed(x, running, affine, residual, activation):
    """Evaluation as the layers one by one."""
    y = F.batch_norm(x, *running, *affine)
    y = y if residual is None else y + residual
    return {None: lambda v: v, "relu": F.relu, "relu6": F.relu6}[activation](y)


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_evaluation_is_batch_norm(
    backend: str, dtype: torch.dtype, with_residual: bool, activation: str | None
) -> None:
    parameter_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    x = (3 * torch.randn(4, 3, 5, 6)).to(dtype).requires_grad_()
    residual = torch.randn(4, 3, 5, 6).to(dtype) if with_residual else None
    state = [v.to(parameter_dtype) for v in (torch.randn(3), torch.rand(3) + 0.1)]
    affine = [torch.randn(3).to(parameter_dtype) for _ in range(2)]
    y = l1_batch_norm(x, *state, *affine, activation=activation, residual=residual, backend=backend)
    want = composed(x, state, affine, residual, activation)
    grad = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, x, grad), torch.autograd.grad(want, x, grad))
    if activation is None and residual is None:
        assert torch.equal(y, want)
        return
    # In one pass it is rounded less often: no further from the exact value than BatchNorm is.
    wide = [v.double() for v in (*state, *affine)]
    exact = composed(
        x.double(), wide[:2], wide[2:], None if residual is None else residual.double(), activation
    )
    own = (want.double() - exact).norm()
    assert (y.double() - exact).norm() <= 2 * own + torch.finfo(dtype).eps * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_running_statistics_follow_the_reference(backend: str, dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, 5, 6, dtype=dtype) * 3 + 2
    mean, var = running(dtype=dtype)
    l1_batch_norm(x, mean, var, training=True, momentum=0.3, backend=backend)
    stats = reference.statistics(x.double(), 1e-5)
    want = reference.running_update(
        torch.zeros(3).double(), torch.ones(3).double(), stats, 120, 0.3, 1e-5
    )
    assert_close((mean.double(), var.double()), want, "single")


def test_training_denominator_is_the_evaluation_denominator(backend: str) -> None:
    x = torch.randn(64, 3, 32, 32)
    mean, var = running()
    trained = l1_batch_norm(x, mean, var, training=True, momentum=1.0, backend=backend)
    evaluated = l1_batch_norm(x, mean, var, backend=backend)
    # The factor M/(M - 1) is the only difference, as in BatchNorm.
    assert_close(evaluated, trained, "cancelling")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_bad_channel_keeps_its_running_statistics(backend: str, bad: float) -> None:
    x = torch.randn(8, 3, 4, 4)
    x[::2, 1] = bad
    mean, var = running()
    l1_batch_norm(x, mean, var, training=True, backend=backend)
    assert (mean[1], var[1]) == (0, 1)
    assert (mean[[0, 2]] != 0).all()
    assert (var[[0, 2]] != 1).all()


def test_momentum_may_be_a_tensor(backend: str) -> None:
    x = torch.randn(8, 3, 4, 4)
    results = []
    for momentum in (0.25, torch.tensor(0.25)):
        state = running()
        l1_batch_norm(x, *state, training=True, momentum=momentum, backend=backend)
        results.append(state)
    assert_close(*results, "single")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_buffers(backend: str, dtype: torch.dtype) -> None:
    x = (torch.randn(16, 3, 8, 8) + 1).to(dtype)
    mean, var = running(dtype=dtype)
    weight = torch.ones(3, dtype=dtype, requires_grad=True)
    y = l1_batch_norm(x, mean, var, weight, training=True, momentum=1.0, backend=backend)
    y.float().square().sum().backward()
    assert y.dtype == mean.dtype == weight.grad.dtype == dtype
    assert_close(mean.float(), x.float().mean((0, 2, 3)), "half")


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0, 4)])
def test_empty_batch(backend: str, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, requires_grad=True)
    weight, bias = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    state = running()
    y = l1_batch_norm(x, *state, weight, bias, training=True, backend=backend)
    y.sum().backward()
    assert y.shape == x.shape
    assert [v.grad.abs().sum().item() for v in (x, weight, bias)] == [0, 0, 0]
    torch.testing.assert_close(state, running())


@pytest.mark.parametrize("activation", [None, "relu"])
def test_empty_batch_in_evaluation(backend: str, activation: str | None) -> None:
    x = torch.empty((0, 3, 4, 4), requires_grad=True)
    y = l1_batch_norm(x, *running(), activation=activation, backend=backend)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape


def gaps(vector: torch.Tensor, kind: str) -> torch.Tensor:
    """The same numbers with gaps between them, or one number in the place of all."""
    if kind == "expanded":
        return vector[:1].clone().expand(len(vector))
    wide = torch.full((len(vector), 3), float("nan"), dtype=vector.dtype)
    wide[:, 1] = vector
    return wide[:, 1]


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["strided", "expanded"])
@pytest.mark.parametrize("shape", [(6, 3, 5, 4), (40, 32)])
def test_vectors_of_any_layout(
    backend: str, shape: tuple[int, ...], kind: str, training: bool, activation: str | None
) -> None:
    torch.manual_seed(0)
    x, grad = torch.randn(shape), torch.randn(shape)
    vectors = [gaps(torch.rand(shape[1]) + 0.5, kind) for _ in range(4)]
    found = []
    for mean, var, weight, bias in (vectors, [v.contiguous() for v in vectors]):
        leaves = [v.detach().requires_grad_() for v in (x, weight, bias)]
        # Running statistics that are one number for all channels cannot move in place.
        state = (None, None) if training else (mean, var)
        y = l1_batch_norm(
            leaves[0], *state, *leaves[1:], training, activation=activation, backend=backend
        )
        found.append([y, *torch.autograd.grad(y, leaves, grad)])
    torch.testing.assert_close(*found)


X = torch.zeros(4, 3, 2, 2)
ERRORS = [
    (ValueError, "expected at least 2D input \\(got 1D input\\)", {"input": torch.zeros(4)}),
    (
        TypeError,
        "expected a floating-point input of 16, 32 or 64 bits, got torch.int64.*float",
        {"input": X.long()},
    ),
    (TypeError, "expected input to be a torch.Tensor, got list", {"input": [1.0]}),
    (
        ValueError,
        r"Expected more than 1 value per channel when training, got input size .*\[1, 3\]",
        {"input": torch.zeros(1, 3)},
    ),
    (ValueError, "eps must be positive during training, but got 0", {"eps": 0.0}),
    (ValueError, "eps must be non-negative, but got -1", {"eps": -1.0, "training": False}),
    (ValueError, "expected activation None or one of .*, got 'selu'", {"activation": "selu"}),
    (ValueError, "running_mean should contain 3 elements not 4", {"running_mean": torch.zeros(4)}),
    (ValueError, "weight should contain 3 elements not 2", {"weight": torch.ones(2)}),
    (ValueError, r"bias should contain 3 elements not 3.*got \(1, 3\)", {"bias": torch.ones(1, 3)}),
    (ValueError, "running_mean and running_var both or neither", {"running_mean": None}),
    (
        ValueError,
        "Expected running_mean and running_var to be defined when training=False",
        {"running_mean": None, "running_var": None, "training": False},
    ),
    (ValueError, "on the input's device cpu, got meta", {"weight": torch.ones(3, device="meta")}),
    (ValueError, r"residual of the input's shape \(4, 3, 2, 2\), got", {"residual": X[:1]}),
    (ValueError, "residual of the input's dtype", {"residual": X.double()}),
    (TypeError, "expected residual to be a torch.Tensor, got list", {"residual": [1.0]}),
    (TypeError, "expected weight to be a torch.Tensor, got list", {"weight": [1.0, 1.0, 1.0]}),
    (TypeError, "expected mask to be a torch.Tensor, got list", {"mask": [True]}),
    (TypeError, "expected momentum as a number or a tensor.*got None", {"momentum": None}),
    (ValueError, r"at least one channel, got .*\(4, 0\)", {"input": torch.zeros(4, 0)}),
    (
        ValueError,
        r"at least one channel, got .*\(4, 0, 2\)",
        {"input": torch.zeros(4, 0, 2), "training": False},
    ),
    (TypeError, "input as a dense tensor .*got torch.sparse_coo", {"input": X.to_sparse()}),
    (TypeError, "input as a dense tensor .*got torch._mkldnn", {"input": X.to_mkldnn()}),
    (TypeError, "residual as a dense tensor .*sparse_coo", {"residual": X.to_sparse()}),
    (TypeError, "mask as a dense tensor .*sparse_coo", {"mask": (X > 0).to_sparse()}),
    (TypeError, "weight as a dense tensor .*sparse_coo", {"weight": torch.ones(3).to_sparse()}),
    (ValueError, r"expected backend 'auto' or one of .*, got 'cuda'.*doctor", {"backend": "cuda"}),
]


@pytest.mark.filterwarnings("ignore:.*nested tensors.*", "ignore:Sparse CSR")
@pytest.mark.parametrize("training", [False, True])
def test_sparse_and_nested_inputs_are_refused(training: bool) -> None:
    layer = L1BatchNorm2d(3).train(training)
    with pytest.raises(TypeError, match=r"got a nested tensor: .*to_padded_tensor.* mask"):
        layer(torch.nested.nested_tensor([X[0], X[0, :, :, :1]]))
    with pytest.raises(TypeError, match=r"got torch\.sparse_csr: .*to_dense"):
        l1_batch_norm(X[:, :, 0, 0].to_sparse_csr(), *running(), training=training)
    with pytest.raises(TypeError, match=r"got torch\.sparse_coo: .*to_dense"):
        layer(X.to_sparse())
    with pytest.raises(TypeError, match=r"expected input to be a torch\.Tensor, got list"):
        layer([1.0])
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize(("kind", "text", "change"), ERRORS, ids=[e[1][:30] for e in ERRORS])
def test_errors_say_what_came_and_change_nothing(kind, text: str, change: dict) -> None:
    state = running()
    arguments = {
        "input": torch.randn(4, 3, 2, 2),
        "running_mean": state[0],
        "running_var": state[1],
        "training": True,
    }
    with pytest.raises(kind, match=text):
        l1_batch_norm(**(arguments | change))
    torch.testing.assert_close(state, running())


def test_functorch_transforms() -> None:
    x = torch.randn(5, 8, 3, dtype=torch.float64)

    def loss(v: torch.Tensor) -> torch.Tensor:
        return (l1_batch_norm(v, None, None, training=True, activation="relu") ** 2).sum()

    jacobian = torch.func.jacrev(loss)(x[0])
    assert torch.autograd.gradcheck(loss, x[0].clone().requires_grad_())
    batched = torch.func.vmap(torch.func.grad(loss))(x)
    torch.testing.assert_close(batched[0], jacobian)
    tangent = torch.randn_like(x[0])
    _, derivative = torch.func.jvp(loss, (x[0],), (tangent,))
    torch.testing.assert_close(derivative, (jacobian * tangent).sum())


def test_forward_mode() -> None:
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)

    def call(v: torch.Tensor) -> torch.Tensor:
        return l1_batch_norm(v, None, None, training=True)

    assert torch.autograd.gradcheck(call, x, check_forward_ad=True)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int32, torch.complex64])
@pytest.mark.parametrize("which", [0, 1, 2, 3, 4])
def test_other_dtypes_are_refused(backend: str, which: int, dtype: torch.dtype) -> None:
    arguments = [torch.randn(4, 3), *(torch.ones(3) for _ in range(4))]
    arguments[which] = arguments[which].to(dtype)
    for training in (False, True):
        with pytest.raises(TypeError, match=r"expected .*16, 32 or 64 bits, got torch\."):
            l1_batch_norm(*arguments, training=training, backend=backend)
