"""Fusion in the source of forwards that cannot be traced."""

from __future__ import annotations

import copy
import importlib.util
import linecache
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import relu6

from l1bn import convert_, revert_
from l1bn.convert.source import NoSourceError, rewrite_source
from zoo import Block, assert_same, warm

Calls = list[tuple[Any, bool]]
X = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Nested(Block):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() < 100:
            return self.act(self.bn(self.conv(x)))
        return x


class Neighbours(Block):
    def forward(self, x: Tensor) -> Tensor:
        while x.mean() > 100:
            x = x / 2
        x = self.conv(x)
        x = self.bn(x)
        x = self.act(x)
        return x


class Functional(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(x), inplace=True) if x.mean() < 100 else x


class Imported(Block):
    def forward(self, x: Tensor) -> Tensor:
        return relu6(self.bn(x)) if x.mean() < 100 else x


class Residual(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = x if x.mean() < 100 else 2 * x
        return self.act(self.bn(self.conv(y)) + x)


class ResidualFirst(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = x if x.mean() < 100 else 2 * x
        return torch.relu(x + self.bn(y))


class Everywhere(Block):
    """In a loop, a branch, a try and a with, with the layer in a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"bn": nn.BatchNorm2d(4)})

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x.shape[0])):
            try:
                with torch.enable_grad():
                    x = self.inner.bn(x)
                    x = self.act(x)
            finally:
                x = self.act(self.bn(x))
        return x


class Base(Block):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class WithSuper(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.act(self.bn(x))) if x.mean() < 100 else x


def enclosing(factor: float) -> type[nn.Module]:
    class WithClosure(Block):
        def forward(self, x: Tensor, *, more: float = 1.0) -> Tensor:
            return factor * more * self.act(self.bn(x)) if x.mean() < 100 else x

    return WithClosure


class Private(Block):
    """Its names are mangled: outside of its class they would mean something else."""

    def __init__(self) -> None:
        super().__init__()
        self.__bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.act(self.__bn(x)))) if x.mean() < 100 else x


FUSED: dict[str, tuple[Any, tuple[Any, bool]]] = {
    "nested": (Nested, ("relu", False)),
    "neighbours": (Neighbours, ("relu", False)),
    "functional": (Functional, ("relu", False)),
    "imported": (Imported, ("relu6", False)),
    "residual": (Residual, ("relu", True)),
    "residual first": (ResidualFirst, ("relu", True)),
    "everywhere": (Everywhere, ("relu", False)),
    "super": (WithSuper, ("relu", False)),
    "closure": (enclosing(3.0), ("relu", False)),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_and_the_same(name: str, calls: Calls) -> None:
    make, call = FUSED[name]
    model = warm(make(), 4, 4, 6, 6)
    convert_(model)
    fused = copy.deepcopy(model).double()
    report = convert_(fused, example=X)
    layers = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    assert len(report.fused) == layers
    assert not report.not_fused
    assert_same(model, fused, X)
    calls.clear()
    fused(X)
    assert set(calls) == {call}
    revert_(fused)
    assert type(fused) is type(model)


def test_mangled_names_keep_their_meaning() -> None:
    model = warm(Private(), 4, 4, 6, 6)
    convert_(model)
    fused = copy.deepcopy(model).double()
    assert [item.path for item in convert_(fused, example=X).fused] == ["bn"]
    assert_same(model, fused, X)


def test_both_branches_stay() -> None:
    model = Nested().double().eval()
    convert_(model, example=X)
    far = X + 1000
    assert torch.equal(model(far), far)


class Twice(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(x)
        z = self.act(y)
        return y + z if x.mean() < 100 else x


class Between(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        if x.mean() < 100:
            x = self.act(x)
        return x


class Called(Block):
    """The residual is computed by a call: its order would change."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x) + self.conv(x)) if x.mean() < 100 else x


class Chained(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = x = self.bn(x)
        x = self.act(x)
        return x + y if x.mean() < 100 else x


class Dropped(Block):
    """The layer's output is overwritten by that of something else."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(x)
        y = self.act(x)
        return y if x.mean() < 100 else x


class Inner(Block):
    def forward(self, x: Tensor) -> Tensor:
        run = lambda self: F.silu(self)  # noqa: E731
        return run(self.bn(x)) if x.mean() < 100 else x


@pytest.mark.parametrize("make", [Twice, Between, Called, Chained, Dropped, Inner])
def test_what_the_source_does_not_show_is_left(make: Any) -> None:
    model = make().double()
    convert_(model)
    unfused = copy.deepcopy(model)
    assert not rewrite_source(model)[1]
    report = convert_(model, example=X)
    assert not report.fused
    assert type(model) is make
    assert_same(unfused, model, X)


class Rebinds(Block):
    def forward(self, x: Tensor) -> Tensor:
        self = self.train()
        return self.act(self.bn(x)) if x.mean() < 100 else x


class Decorated(Block):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x)) if x.mean() < 100 else x


class Borrowed(Block):
    @property
    def forward(self) -> Any:
        return lambda x: Nested.forward(self, x)


def without_source() -> type[nn.Module]:
    namespace: dict[str, Any] = {"Block": Block}
    exec(
        "class NoSource(Block):\n"
        "    def forward(self, x):\n"
        "        return self.act(self.bn(x)) if x.mean() < 100 else x\n",
        namespace,
    )
    return namespace["NoSource"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Rebinds, "its forward rebinds variables"),
        (Decorated, "its source is not what runs"),
        (Borrowed, "its forward was replaced"),
        (without_source(), "its source is not available"),
    ],
)
def test_sources_that_cannot_be_used(make: Any, reason: str) -> None:
    model = make().double()
    with pytest.raises(NoSourceError, match=reason):
        rewrite_source(model)
    expected = copy.deepcopy(model)(X)
    convert_(model)
    before = copy.deepcopy(model)(X)
    assert not convert_(model, example=X).fused
    assert torch.equal(model(X), before)
    assert expected.shape == before.shape


def test_a_file_changed_since_it_was_imported_is_not_used(tmp_path: Path) -> None:
    text = (
        "from zoo import Block\n"
        "class Edited(Block):\n"
        "    def forward(self, x):\n"
        "        return self.act(self.bn(x)) if x.mean() < 100 else x\n"
    )
    path = tmp_path / "edited.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("edited", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path.write_text(text.replace("self.bn(x)", "self.bn(-x)"))
    linecache.checkcache()
    model = module.Edited().double()
    with pytest.raises(NoSourceError, match="its source is not what runs"):
        rewrite_source(model)


class TestAfterwards:
    @pytest.fixture
    def model(self) -> nn.Module:
        model = warm(Nested(), 4, 4, 6, 6).double()
        assert convert_(model, example=X).fused
        return model

    def test_hooks_are_called(self, model: nn.Module, calls: Calls) -> None:
        for part in (model.bn, model.act):
            seen: list[Tensor] = []
            handle = part.register_forward_hook(lambda *a, seen=seen: seen.append(a[2]))
            model(X)
            handle.remove()
            assert len(seen) == 1
        assert calls == [(None, False)] * 2
        model(X)
        assert calls[-1] == ("relu", False)

    def test_replaced_parts_are_used(self, model: nn.Module) -> None:
        model.act = nn.Tanh()
        torch.testing.assert_close(model(X), torch.tanh(model.bn(model.conv(X))))
        model.bn = nn.Identity()
        torch.testing.assert_close(model(X), torch.tanh(model.conv(X)))

    def test_copies_and_pickles(self, model: nn.Module, calls: Calls) -> None:
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            calls.clear()
            assert torch.equal(copied(X), model(X))
            assert calls == [("relu", False)] * 2
            revert_(copied)
            assert type(copied) is Nested

    def test_tracebacks_show_the_file(self, model: nn.Module) -> None:
        with pytest.raises(RuntimeError) as error:
            model(X[:, :2])
        entry = next(
            e for e in error.traceback if e.name == "forward" and e.path.name == "test_source.py"
        )
        assert "self.act(self.bn(self.conv(x)))" in str(entry.statement)
