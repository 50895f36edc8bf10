"""Forwards that somebody wrote to break the fusion: each must be the same fused and unfused."""

from __future__ import annotations

import copy
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from judge import assert_close
from l1bn import convert_


class B(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn, self.b2, self.c = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.act, self.ip = nn.ReLU(), nn.ReLU(True)


class Walrus(B):
    def forward(self, x):
        if (y := self.bn(x)) is not None:
            z = self.act(y)
        return z + y


class LooksInATest(B):
    def forward(self, x):
        y = self.bn(x)
        if self.bn.num_batches_tracked.item() == 1:
            x = 2 * x
        return self.act(y) + x


class Swap(B):
    def forward(self, x):
        a = self.bn(x)
        b = self.b2(x)
        a, b = b, a
        return self.act(a) + b * 2


class Chain(B):
    def forward(self, x):
        a = b = self.bn(x)
        a = self.act(a)
        return a + b


class Default(B):
    def forward(self, x, scale=2.0):
        y = self.bn(x)

        def g(v=y):
            return v

        return self.act(y) + g()


class Comp(B):
    def forward(self, x):
        y = self.bn(x)
        zs = [self.act(y) for _ in range(2)]
        return zs[0] + zs[1]


class TryX(B):
    def forward(self, x):
        y = self.bn(x)
        try:
            y = self.act(y)
            raise ValueError
        except ValueError:
            return y * 2


class Ret(B):
    def forward(self, x):
        y = self.bn(x)
        if x.sum() > 1e9:
            return y
        return self.act(y)


class InputEdit(B):
    def forward(self, x):
        x = x * 1
        y = self.bn(x)
        y = self.act(y + self.ip(x))
        return y


class Order(B):
    def forward(self, x):
        a = self.bn(x)
        b = self.bn(x * 2)
        return self.act(a + b)


class SameTwice(B):
    def forward(self, x):
        a = self.bn(x)
        return self.act(a + a)


class Cond(B):
    def forward(self, x):
        y = self.bn(x)
        y = self.act(y) if x.sum() > -1e9 else y
        return y


class And(B):
    def forward(self, x):
        y = self.bn(x)
        return (x is None and y) or self.act(y)


class Kw(B):
    def forward(self, x):
        y = self.bn(x)
        return self.act(input=y)


class Star(B):
    def forward(self, *xs):
        y = self.bn(*xs)
        return self.act(*(y,))


class Fin(B):
    def forward(self, x):
        y = self.bn(x)
        try:
            return self.act(y)
        finally:
            self.seen = float(y.detach().sum())


class Loop(B):
    def forward(self, x):
        y = x
        for i in range(3):
            if i:
                y = self.act(y)
            y = self.bn(y)
        return self.act(y)


class Mom(B):
    def forward(self, x):
        y = self.bn(x)
        self.bn.momentum = 0.7
        y = self.act(y)
        return y


class Freeze(B):
    def forward(self, x):
        y = self.bn(x)
        self.bn.train(False)
        y = self.act(y)
        self.bn.train()
        return y


class Wt(B):
    def forward(self, x):
        y = self.bn(x)
        with torch.no_grad():
            self.bn.bias.add_(1)
        return self.act(y)


class Tern(B):
    def forward(self, x):
        y = self.bn(x)
        return self.act(y if self.training else x)


class Del(B):
    def forward(self, x):
        y = self.bn(x)
        x = self.c(x)
        del x
        return self.act(y)


GG: torch.Tensor | None = None


class Glob(B):
    def forward(self, x):
        global GG
        GG = self.bn(x)
        return self.act(GG)


class AugCall(B):
    def forward(self, x):
        y = self.c(x)
        y += self.bn(x)
        y = self.act(y)
        return y


class Match(B):
    def forward(self, x):
        y = self.bn(x)
        match x.dim():
            case 4:
                y = self.act(y)
            case _:
                y = y * 2
        return y


class Sub(B):
    def forward(self, x):
        y = self.bn(x)
        y[0] = 0
        return self.act(y)


class Setattr(B):
    def forward(self, x):
        self.y = self.bn(x)
        return self.act(self.y)


class Overwritten(B):
    def forward(self, x):
        y = self.b2(x)
        y = x
        return self.act(self.bn(y))


class OverwrittenLater(B):
    def forward(self, x):
        y = z = 0
        y = self.b2(x)
        z = y
        z = x
        y = self.bn(z)
        return self.act(y)


class NonT(B):
    def forward(self, x):
        n = len(x)
        y = self.bn(x)
        n += 1
        y = self.act(y) * n
        return y


class Prop(B):
    @property
    def a(self):
        self.c.weight.data.mul_(1)
        self.k = float(self.bn.running_mean.sum())
        return self.act

    def forward(self, x):
        y = self.bn(x)
        return self.a(y) + self.k


class Narrow(B):
    """Has a convolution whose output its layers refuse."""

    def __init__(self):
        super().__init__()
        self.narrow = nn.Conv2d(3, 2, 1)


class RaisesSecond(Narrow):
    def forward(self, x):
        a = self.bn(x)
        b = self.b2(self.narrow(x))
        return self.act(a + b)


class RaisesFirst(Narrow):
    def forward(self, x):
        b = self.b2(self.narrow(x))
        a = self.bn(x)
        return self.act(a + b)


class RaisesWhereActivated(Narrow):
    def forward(self, x):
        b = self.b2(self.narrow(x))
        a = self.bn(x)
        b = self.act(b)
        return self.act(a) + b


class RaisesInALoad(B):
    def forward(self, x):
        a = self.bn(x)
        return self.act(a + missing)  # type: ignore[name-defined]  # noqa: F821


class RaisesInASum(Narrow):
    def forward(self, x):
        a = self.bn(x)
        b = self.b2(x)
        c = self.narrow(x) + x
        return self.act(a + b) + c


class Recovers(Narrow):
    def forward(self, x):
        a = self.bn(x)
        try:
            b = self.act(self.b2(self.narrow(x)) + a)
        except (RuntimeError, ValueError):
            b = self.act(self.b2(a))
        return b


class EditsAnInput(B):
    def forward(self, x):
        r = self.bn(x)
        t = self.c(x)
        p = self.b2(t)
        t += r
        return self.act(p) + t


class Adder:
    """Adds itself, and changes a layer."""

    def __init__(self, layer):
        self.layer = layer

    def __radd__(self, other):
        self.layer.weight.data.mul_(2)
        return other * 2


class AddsItself(B):
    def __init__(self):
        super().__init__()
        self.adder = Adder(self.bn)

    def forward(self, x):
        a = self.bn(x)
        z = x + self.adder
        return self.act(a) + z


class Matches(B):
    def forward(self, x):
        y = self.bn(x)
        match y:
            case z if y.dim() == 4:
                y = self.act(z)
            case _:
                pass
        return y


class MatchesAValue(B):
    def forward(self, x):
        y = self.b2(x)
        y = self.bn(y)
        match 3:
            case y.ndim:
                x = 2 * x
            case _:
                pass
        return self.act(x)


class Unbound(B):
    def forward(self, x):
        if self.training:
            y = self.bn(x)
        return self.act(y)


class LocalAfterItsReturn(B):
    def forward(self, x):
        y = self.act(self.bn(x))
        if self.training:
            return y
        return y + limit  # type: ignore[used-before-def]  # noqa: F823
        limit = 3  # noqa: F841 - never runs, but makes the name local


class ThirdInBetween(B):
    def __init__(self):
        super().__init__()
        self.b3 = nn.BatchNorm2d(3)

    def forward(self, x):
        a = self.bn(x)
        t = self.b3(x)
        b = self.b2(x)
        y = self.act(b + a)
        return self.act(t) + y


class OneOfTwoIsSeen(B):
    def forward(self, x):
        a = self.bn(x)
        b = self.b2(x)
        n = a.mean()
        return self.act(a + b) * n


class NamesAnArgumentForward(B):
    def forward(self, x, forward=True):
        return self.act(self.bn(x)) if forward else x


class Annotates(B):
    def forward(self, x):
        y = self.bn(x)
        y: torch.Tensor  # type: ignore[no-redef]
        return self.act(y * 2) + self.act(self.bn(x))


class OtherLayout(B):
    def forward(self, x):
        r = self.act(x)
        laid = self.c(x).contiguous(memory_format=torch.channels_last)
        y = self.act(r + self.bn(laid))
        return y.view(len(y), -1)


class OtherLayoutOfAPair(B):
    def forward(self, x):
        laid = self.c(x).contiguous(memory_format=torch.channels_last)
        y = self.act(self.bn(x) + self.b2(laid))
        z = self.b2(laid)
        z = self.act(self.bn(x) + z)
        return y.view(len(y), -1) + z.view(len(y), -1)


class OtherLayoutOfACurve(B):
    def forward(self, x):
        laid = self.c(x).contiguous(memory_format=torch.channels_last)
        y = nn.functional.silu(self.bn(x) + self.b2(laid))
        return y.view(len(y), -1)


class Plain(B):
    def forward(self, x):
        return self.act(self.bn(x))


class CallsUpByItsClass(Plain):
    def forward(self, x):
        return self.act(self.b2(super(type(self), self).forward(x)))


class AsksForItsClass(B):
    def forward(self, x):
        y = self.act(self.bn(x))
        return y if type(self) is AsksForItsClass else y * 2


class OneOfAPairRaises(B):
    def __init__(self):
        super().__init__()
        self.b2 = nn.BatchNorm2d(2)

    def forward(self, x):
        return self.act(self.bn(x) + self.b2(x))


class OneOfAPairEvaluates(B):
    def forward(self, x):
        self.bn.train(False)
        return self.act(self.bn(x) + self.b2(x))


class OneOfAPairIsFrozenAndRaises(B):
    def __init__(self):
        super().__init__()
        self.bn.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        self.bn.train(False)
        return self.act(self.bn(x) + self.b2(x))


class EvaluatesALayer(B):
    def forward(self, x):
        y = self.act(self.b2(x))
        self.bn.eval()
        return self.act(self.bn(y))


class PairWithOneCounter(B):
    def __init__(self):
        super().__init__()
        self.bn.momentum = self.b2.momentum = None
        self.b2.num_batches_tracked = self.bn.num_batches_tracked

    def forward(self, x):
        return self.act(self.bn(x) + self.b2(x))


class ReadsAveragesEarly(B):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        s = self.bn.running_var
        y = self.bn(x)
        g = self.fc(s)
        return self.act(y) * torch.sigmoid(g).view(1, 3, 1, 1)


class Unused(B):
    """Returns one layer's output; another one's is not used."""

    def forward(self, x):
        a = self.bn(x)
        b = self.b2(x)  # noqa: F841
        return a


class Holds(B):
    def __init__(self):
        super().__init__()
        self.inner = Unused()


class ReadsACounterBeside(Holds):
    def forward(self, x):
        y = self.inner(x) * int(self.inner.b2.num_batches_tracked)
        return y + self.act(self.inner(x))


class LoopsOnACounter(Holds):
    def forward(self, x):
        y = x
        n = 0
        while self.inner.b2.num_batches_tracked.item() < 3 and n < 4:
            y = self.inner(y)
            n += 1
        return self.act(y)


class RaisesInside(Narrow):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(2)
        self.wide = nn.Conv2d(4, 3, 1)

    def forward(self, x):
        a = self.bn(x)
        b = self.wide(x)
        return self.act(a) + b


class ChoosesAHandler(B):
    def __init__(self):
        super().__init__()
        self.inner = RaisesInside()

    def forward(self, x):
        try:
            y = self.inner(x)
        except ValueError:
            y = x
        except RuntimeError:
            y = -x
        return self.act(self.bn(y))


class CallsItsOwnWay(B):
    def _call_impl(self, *args, **kwargs):
        return super()._call_impl(*args, **kwargs) * 2

    def forward(self, x):
        return self.act(self.bn(x))


class HoldsOneWithItsOwnWay(B):
    def __init__(self):
        super().__init__()
        self.inner = CallsItsOwnWay()

    def forward(self, x):
        return self.act(self.inner(x)) + self.act(self.bn(x))


class CallsAName(B):
    def __init__(self):
        super().__init__()
        self.name = "relu"

    def forward(self, x):
        y = self.bn(x)
        return self.name(y)


class CurvedPair(B):
    def forward(self, x):
        return nn.functional.silu(self.bn(x) + self.b2(x))


class Registered:
    def __init_subclass__(cls, *, kind="", **options):
        super().__init_subclass__(**options)
        assert kind, "every subclass says of which kind it is"


class OfAKind(B, Registered, kind="a"):
    def forward(self, x):
        return self.act(self.bn(x))


ACT = nn.ReLU()


class CallsAGlobal(B):
    def forward(self, x):
        y = self.bn(x)
        y = ACT(y)
        return y * 2


class HasAProperty(B):
    count = 0

    @property
    def twice(self):
        self.count += 1
        return self.act

    def forward(self, x):
        return self.twice(self.bn(x))


limit = 7.0


def descendants(cls: type) -> list[type]:
    """Every class below one that has a forward of its own."""
    found: list[type] = []
    child: type
    for child in cls.__subclasses__():
        found += [child, *descendants(child)]
    return [c for c in found if "forward" in vars(c) and c.__module__ == __name__]


def results(model: Any, training: bool) -> Any:
    x = torch.randn(
        4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    model.train(training)
    try:
        y = model(x * 1)
        y.square().sum().backward()
    except (RuntimeError, NameError, ValueError, TypeError) as error:
        return {"error": [id(type(error))], "buffers": list(model.buffers())}
    return {
        "y": y.detach(),
        "x": x.grad,
        "parameters": [p.grad for p in model.parameters() if p.grad is not None],
        "buffers": list(model.buffers()),
        "seen": getattr(model, "seen", None),
    }


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("make", descendants(B), ids=lambda c: c.__name__)
def test_it_is_the_same(make: Any, training: bool) -> None:
    plain = make().double()
    fused = copy.deepcopy(plain)
    convert_(plain, fuse=False)
    convert_(fused)
    assert_close(results(fused, training), results(plain, training), "double sums")


def test_a_callee_that_becomes_an_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = CallsAGlobal().double()
    fused = copy.deepcopy(plain)
    convert_(plain, fuse=False)
    convert_(fused)
    monkeypatch.setattr(f"{__name__}.ACT", nn.Identity())
    assert_close(results(fused, True), results(plain, True), "double sums")


def test_a_method_patched_by_something_that_is_no_function() -> None:
    model = Plain().double()
    convert_(model)
    with mock.patch.object(Plain, "forward", return_value=torch.ones(1)) as patched:
        model(torch.zeros(1))
    assert len(patched.call_args.args) == 1  # a mock binds nothing: without self


def test_a_report_runs_no_property() -> None:
    model = HasAProperty()
    convert_(model)
    assert model.count == 0


class SaysSoInBetween(B):
    def forward(self, x):
        y = self.bn(x)
        self.seen = "x"
        return self.act(y)


def test_a_forward_that_sets_a_mode_is_fused() -> None:
    assert [item.path for item in convert_(EvaluatesALayer()).fused] == ["bn", "b2"]


def test_what_runs_before_another_statement_is_not_reported_as_fused() -> None:
    report = convert_(SaysSoInBetween())
    assert [item.path for item in report.fused] == []
    assert [item.path for item in report.not_fused] == ["bn", "b2"]
