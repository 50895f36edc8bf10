"""The user's forward runs as written: nothing is frozen at its value of the conversion's day."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from judge import assert_close
from l1bn import convert_

Calls = list[tuple[Any, bool]]
X = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SCALE = 1.0
LOG = logging.getLogger(__name__)


class Sign(torch.autograd.Function):
    """Straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return -grads[0]


class Block(nn.Module):
    flag = True

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
        self.seen: list[Any] = []

    def norm(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class StraightThrough(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn(self.conv(x)))
        return Sign.apply(y - 0.5) * y


class Reverser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(Reversal.apply(x))


class ReversalInAPart(Block):
    def __init__(self) -> None:
        super().__init__()
        self.part = Reverser()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.part(self.conv(x)))


class OverAList(Block):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 3, 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        for layer in self.layers:
            x = layer(x)
        return x


class OverADict(Block):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"a": nn.Conv2d(3, 3, 1)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        for layer in self.layers.values():
            x = layer(x)
        return x


class OverParameters(Block):
    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([torch.full((1,), 0.5)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        for scale in self.scales:
            x = x * scale
        return x


class OfItsClass(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn(self.conv(x)))
        return y if type(self).flag else -y


class OfTheModule(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x))) * SCALE


class OfAConfiguration(Block):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(inner=SimpleNamespace(scale=1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x))) * self.config.inner.scale


class OfADictInAMethod(Block):
    def __init__(self) -> None:
        super().__init__()
        self.options = {"scale": 1.0}

    def scale(self) -> float:
        return self.options["scale"]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x))) * self.scale()


class OfAProperty(Block):
    size = 1.0

    @property
    def scale(self) -> float:
        return 2 * self.size

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x))) * self.scale


class OfAnotherModule(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn(self.conv(x)))
        return y * self.conv.weight.sum() if getattr(self.conv, "flag", False) else y


class OfDropout(Block):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.act(self.bn(self.conv(x))), self.drop.p, self.training)


class OfTheMomentum(Block):
    def forward(self, x: Tensor) -> Tensor:
        momentum = self.bn.momentum or 0.0
        return self.act(self.bn(self.conv(x))) * momentum


class DropsAtRandom(Block):
    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random(3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.rng.random() < 0.5:
            self.seen.append("dropped")
            return x
        return self.act(self.bn(self.conv(x))) + x


class WithoutAutocast(Block):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            y = self.act(self.bn(self.conv(x)))
            self.seen.append(str(y.dtype))
        return y


class AsksForAutocast(Block):
    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(torch.is_autocast_enabled("cpu"))
        y = self.act(self.bn(self.conv(x)))
        return y if torch.is_autocast_enabled("cpu") else 2 * y


class Checkpoints(Block):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False)

    def body(self, x: Tensor) -> Tensor:
        self.seen.append("body")
        return self.act(self.bn(self.conv(x)))


class Talks(Block):
    count = 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn(self.conv(x)))
        print("sum", float(y.detach().sum()) > 0)
        LOG.warning("running")
        self.count += 1
        self.seen.append(float(x.detach().sum()))
        self.seen.append(self.count)
        return y


class Shadows(Block):
    leaky = False

    def forward(self, x: Tensor) -> Tensor:
        relu = F.relu if not self.leaky else F.gelu
        return relu(self.bn(self.conv(x)))


class EditsTheResidual(Block):
    def forward(self, x: Tensor) -> Tensor:
        r = x * 2
        y = self.act(self.bn(self.conv(x)) + r)
        r += 1
        return y + r


def _nothing(model: Any, patch: pytest.MonkeyPatch) -> None:
    pass


def _set(path: str, value: Any) -> Callable[[Any, pytest.MonkeyPatch], None]:
    *way, name = path.split(".")

    def edit(model: Any, patch: pytest.MonkeyPatch) -> None:
        for part in way:
            model = getattr(model, part)
        setattr(model, name, value)

    return edit


def _class_flag(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(type(model), "flag", False)


def _global(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(globals(), "SCALE", 3.0)


def _class_forward(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(type(model), "forward", lambda self, x: 3 * self.conv(x))


CASES: list[tuple[type[Block], Callable[[Any, pytest.MonkeyPatch], None]]] = [
    (StraightThrough, _nothing),
    (ReversalInAPart, _nothing),
    (OverAList, lambda m, _: m.layers.append(nn.Tanh())),
    (OverADict, lambda m, _: m.layers.update({"b": nn.Tanh()})),
    (OverParameters, lambda m, _: m.scales.append(torch.full((1,), 3.0, dtype=torch.float64))),
    (OfItsClass, _class_flag),
    (OfTheModule, _global),
    (OfAConfiguration, _set("config.inner.scale", 3.0)),
    (OfADictInAMethod, lambda m, _: m.options.update(scale=3.0)),
    (OfAProperty, _set("size", 3.0)),
    (OfAnotherModule, _set("conv.flag", True)),
    (OfDropout, _set("drop.p", 0.5)),
    (OfTheMomentum, _set("bn.momentum", 0.5)),
    (OfTheModule, _class_forward),
    (DropsAtRandom, _nothing),
    (WithoutAutocast, _nothing),
    (AsksForAutocast, _nothing),
    (Checkpoints, _nothing),
    (Talks, _nothing),
    (Shadows, _set("leaky", True)),
    (EditsTheResidual, _nothing),
]


def build(make: Any, fuse: bool) -> Any:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        model = make().double()
    convert_(model, fuse=fuse)
    return model


def observe(model: Any, training: bool, autocast: bool) -> dict[str, Any]:
    model.train(training).zero_grad()
    torch.default_generator.manual_seed(3)
    dtype = torch.float32 if autocast else torch.float64
    model.to(dtype)
    region = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    x = X.detach().to(dtype, copy=True).requires_grad_()
    with region:
        y = model(x)
    (y.double() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return {
        "y": y.detach(),
        "gradients": [x.grad, *(p.grad for p in model.parameters() if p.grad is not None)],
        "buffers": list(model.buffers()),
        "seen": [str(v) for v in model.seen],
    }


def same(got: dict[str, Any], want: dict[str, Any], autocast: bool) -> None:
    assert got.pop("seen") == want.pop("seen")
    assert_close(got, want, "half sums" if autocast else "double sums")


@pytest.mark.parametrize(("make", "edit"), CASES, ids=lambda v: v.__name__.strip("_<>"))
def test_nothing_is_frozen(
    make: Any, edit: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Before and after the edit: values, gradients, statistics, what it prints, logs and keeps."""
    plain, fused = build(make, False), build(make, True)
    for change in (_nothing, edit):
        with monkeypatch.context() as patch:
            change(plain, patch), change(fused, patch)
            for training, autocast in ((True, False), (False, False), (True, True)):
                said = []
                found = []
                for model in (plain, fused):
                    found.append(observe(model, training, autocast))
                    said.append((capsys.readouterr().out, [r.message for r in caplog.records]))
                    caplog.clear()
                same(found[1], found[0], autocast)
                assert said[0] == said[1]
                assert bool(said[0][0]) == (make is Talks and edit is _nothing)
    one_call = any(activation is not None for activation, _ in calls)
    # Nothing keeps that residual for it; a local name is not certain to be an activation.
    assert one_call == (make not in (EditsTheResidual, Shadows))


def test_it_drops_as_often(calls: Calls) -> None:
    plain, fused = build(DropsAtRandom, False), build(DropsAtRandom, True)
    for _ in range(100):
        plain(X), fused(X)
    assert 30 < plain.seen.count("dropped") < 70
    assert fused.seen == plain.seen
    assert sum(activation is not None for activation, _ in calls) == 100 - len(fused.seen)


def test_checkpointing_keeps_only_the_input(calls: Calls) -> None:
    model = build(Checkpoints, True)
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    x = X.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = model(x)
    assert not [n for n in kept if n >= x.numel() and n != x.numel()]
    assert sum(n == x.numel() for n in kept) <= 1
    y.sum().backward()
    assert model.seen == ["body", "body"]


@pytest.mark.parametrize("example", [None, X], ids=["", "example"])
def test_the_conversion_leaves_the_model_as_it_was(example: Tensor | None) -> None:
    model: Any = nn.Sequential(Talks(), OverAList()).double()
    model.register_buffer("steps", torch.zeros(()))
    ran: list[Any] = []
    model[0].bn.register_forward_hook(lambda *_: ran.append(1))
    before = {
        name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()
    }
    state = torch.get_rng_state()
    convert_(model, example=example)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    for name, (value, copied) in before.items():
        assert after[name] is value, name
        assert torch.equal(value, copied), name
    assert torch.equal(torch.get_rng_state(), state)
    assert model[0].count == 0
    assert model[0].seen == []
    if example is None:
        assert ran == []
