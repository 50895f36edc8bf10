"""Two layers whose outputs are added before an activation become one call."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from judge import assert_close
from l1bn import convert_
from zoo import warm

Calls = list[tuple[Any, bool]]
X = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(1))


def branch(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), *more)


class Joined(nn.Module):
    """A main branch and a shortcut."""

    def __init__(self, *more: nn.Module) -> None:
        super().__init__()
        self.main, self.shortcut = branch(), branch(*more)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.main(x)
        y += self.shortcut(x)
        return self.act(y)


class ShortcutFirst(Joined):
    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        return F.relu6(self.main(x) + shortcut)


class Alone(Joined):
    """The layers are the block's own, between plain convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.main[0](x)
        b = self.shortcut[0](x)
        return torch.relu(self.bn(a) + self.other(b))


class UsedTwice(Joined):
    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        return self.act(self.main(x) + shortcut) + shortcut


class OneLayer(Joined):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.main(x) + self.main(x + 1))


class Written(Joined):
    """The shortcut's input changes before the addition."""

    def forward(self, x: Tensor) -> Tensor:
        z = x.clone()
        shortcut = self.shortcut[1](z)
        z += 1
        return self.act(self.main(z) + shortcut)


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    model(x).pow(2).sum().backward()
    assert x.grad is not None
    return [x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("make", [Joined, ShortcutFirst, Alone], ids=lambda c: c.__name__)
def test_two_layers_become_one_call(make: Any, calls: Calls) -> None:
    model = warm(make(), 4, 4, 6, 6).double()
    convert_(model, fuse=False)
    fused = copy.deepcopy(model)
    report = convert_(fused, example=X.double())
    assert len(report.fused) == 2
    assert {item.text.split(" → ")[1] for item in report.fused} == {"add"}
    torch.testing.assert_close(fused(X.double()), model(X.double()))
    calls.clear()
    for net in (model.train(), fused.train()):
        net.zero_grad()
    for got, want in zip(gradients(fused, X.double()), gradients(model, X.double()), strict=True):
        assert_close(got, want, "double sums")
    assert [has_residual for _, has_residual in calls[:2]] == [True, False]
    torch.testing.assert_close(fused.state_dict(), model.state_dict())


def test_less_is_kept() -> None:
    model = Joined()
    convert_(model, fuse=False)
    fused = copy.deepcopy(model)
    convert_(fused, example=X)

    def kept(net: nn.Module) -> int:
        seen: dict[int, int] = {}

        def pack(v: Tensor) -> Tensor:
            storage = v.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return v

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
            net.train()(torch.randn(8, 4, 64, 64)).sum()
        return sum(seen.values())

    # Input of both convolutions, output, half a branch; before, two branches more.
    assert kept(fused) < 0.75 * kept(model)


@pytest.mark.parametrize("make", [UsedTwice, OneLayer, lambda: Joined(nn.Tanh())])
def test_what_stays_apart(make: Any) -> None:
    model = warm(make(), 4, 4, 6, 6).double()
    convert_(model, fuse=False)
    twin, x = copy.deepcopy(model), X.double()
    convert_(twin, example=x)
    for got, want in zip(gradients(twin.train(), x), gradients(model.train(), x), strict=True):
        torch.testing.assert_close(got, want)


def test_an_input_that_changes_is_read_before_it_does() -> None:
    model = warm(Written(), 4, 4, 6, 6).double().train()
    convert_(model, fuse=False)
    twin = copy.deepcopy(model)
    convert_(twin)
    with torch.no_grad():
        torch.testing.assert_close(twin(X.double()), model(X.double()))


def test_a_hook_on_the_shortcut_still_sees_it(calls: Calls) -> None:
    model = Joined()
    convert_(model, example=X)
    seen: list[Tensor] = []
    model.shortcut[1].register_forward_hook(lambda module, args, y: seen.append(y))
    calls.clear()
    model(X)
    assert len(seen) == 1


def test_compiled() -> None:
    model = warm(Joined(), 4, 4, 6, 6).train()
    convert_(model, example=X)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for got, want in zip(gradients(compiled, X), gradients(twin, X), strict=True):
        assert_close(got, want, "order")
