"""The registry: choosing, registering and refusing backends."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from l1bn.functional import l1_batch_norm
from l1bn.ops.eager.backend import Eager
from l1bn.ops.registry import Backend, Registry, registry


class Counting(Eager):
    """Eager, and it counts its calls."""

    name = "counting"
    reason: str | None = None
    missing: str | None = None

    def __init__(self) -> None:
        self.calls = 0

    def unavailable(self) -> str | None:
        return self.missing

    def unsupported(self, x, weight, bias, residual) -> str | None:
        return self.reason

    def train(self, *arguments):
        self.calls += 1
        return super().train(*arguments)


@pytest.fixture
def counting() -> Iterator[Counting]:
    backend = Counting()
    registry.register(backend)
    yield backend
    registry.unregister("counting")


def call(backend: str = "auto") -> None:
    l1_batch_norm(torch.randn(4, 3), None, None, training=True, backend=backend)


def test_a_registered_backend_is_preferred(counting: Counting) -> None:
    assert isinstance(counting, Backend)
    call()
    call("counting")
    assert counting.calls == 2
    call("eager")
    assert counting.calls == 2


def test_auto_passes_over_what_cannot_serve(counting: Counting) -> None:
    counting.reason = "takes no such tensor"
    call()
    counting.missing = "not built"
    call()
    assert counting.calls == 0
    assert "counting" not in registry.available()


def test_a_named_backend_that_cannot_serve_says_why(counting: Counting) -> None:
    counting.reason = "takes no such tensor"
    with pytest.raises(ValueError, match=r"'counting' cannot serve.*takes no such.*\(4, 3\).*auto"):
        call("counting")
    counting.missing = "not built"
    with pytest.raises(ValueError, match="not built"):
        call("counting")


def test_transforms_and_compilers_get_traceable_operations(counting: Counting) -> None:
    torch.func.vmap(lambda v: l1_batch_norm(v, None, None, training=True))(torch.randn(2, 4, 3))
    assert counting.calls == 0


def test_registering_twice_or_rubbish(counting: Counting) -> None:
    with pytest.raises(ValueError, match="expected a new backend name, got 'counting'"):
        registry.register(Counting())
    with pytest.raises(TypeError, match=r"expected a backend with name.*got SimpleNamespace"):
        Registry({}).register(SimpleNamespace(name="x"))


@pytest.mark.skipif(bool(registry.get("cpu").unavailable()), reason="no native library")
def test_a_named_backend_gives_way_to_who_looks_on() -> None:
    def loss(x: Tensor) -> Tensor:
        y = l1_batch_norm(x, None, None, training=True, activation="relu", backend="cpu")
        return y.square().sum()

    x = torch.randn(6, 3, 4, dtype=torch.float64, requires_grad=True)
    (want,) = torch.autograd.grad(loss(x), x)
    torch.testing.assert_close(torch.func.grad(loss)(x.detach()), want)
    tangent = torch.randn_like(x)
    _, slope = torch.func.jvp(loss, (x.detach(),), (tangent,))
    torch.testing.assert_close(slope, (want * tangent).sum())
    each = torch.func.vmap(loss)(torch.stack([x.detach(), -x.detach()]))
    torch.testing.assert_close(each, torch.stack([loss(x), loss(-x)]))
