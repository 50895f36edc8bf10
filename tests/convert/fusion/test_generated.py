"""Generated blocks: fused and unfused, they must be the same in all that can be observed."""

from __future__ import annotations

import copy
import itertools
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from block_grammar import Writer, load
from judge import assert_close
from l1bn import convert_, revert_
from l1bn.convert.fusion.block import is_fused

FILES, PER_FILE = 25, 100
X = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def observe(model: Any, training: bool, grad: bool = True) -> Any:
    """Everything that a run can be told by, or the error that it raises."""
    model.train(training)
    model.zero_grad()
    model.kept = None  # by the run before
    torch.default_generator.manual_seed(3)
    x = X.clone().requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        try:
            y = model(x * 1)
            if grad:
                (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        except (RuntimeError, NameError, AttributeError, TypeError) as error:
            return error
    kept = [v for v in (y, getattr(model, "kept", None), x.grad) if isinstance(v, Tensor)]
    gradients = [p.grad for p in model.parameters()]
    found = [*kept, *model.buffers(), *(g for g in gradients if g is not None)]
    return {
        "numbers": torch.cat([v.detach().flatten().double() for v in found]),
        "shapes": [(v.shape, v.dtype, v.stride()) for v in kept],
        "gradients": [g is not None for g in gradients],
        "torch": bytes(torch.get_rng_state().tolist()),
        "python": model.rng.getstate(),
        "log": torch.tensor([float(v) for v in model.log]),
        "count": model.count,
        "momentum": getattr(model.bn, "momentum", None),
    }


#: Calls whose output PyTorch lets be edited in place.
_KEEPS_INPUT = re.compile(r"\b(six|relu6|leaky|leaky_relu|elu)\(")


def same(got: Any, wanted: Any, text: str, exact: bool = False) -> None:
    """One exception: of PyTorch's activations that keep their input the output may be edited.

    Fused, ReLU6, LeakyReLU and ELU keep their output, as ReLU does, and say so in backward.
    """
    if isinstance(wanted, Exception):
        assert isinstance(got, type(wanted)) or isinstance(wanted, RuntimeError)
        return
    if isinstance(got, RuntimeError) and "modified by an inplace operation" in str(got):
        assert _KEEPS_INPUT.search(text)
        return
    assert isinstance(got, dict), got
    for key, value in wanted.items():
        if isinstance(value, Tensor):
            kind = "exact" if exact else "double sums"
            assert_close(got[key], value, kind, equal_nan=True)
        else:
            assert got[key] == value, key


def hook(model: Any) -> None:
    for part in (model.bn, model.act, model.tail):
        part.register_forward_hook(
            lambda m, a, y, log=model.log: log.append(float(y.detach().sum()))
        )


EDITS: list[Callable[[Any], Any]] = [
    hook,
    lambda m: setattr(m, "act", nn.Softplus()),
    lambda m: setattr(m, "flag", False),
    lambda m: m.branch.append(nn.Softplus()),
    lambda m: m.parts.append(nn.Softplus()),
    lambda m: m.tail.register_full_backward_hook(lambda *_: m.log.append(1.0)),
    lambda m: setattr(m, "bn", nn.Identity()),
    lambda m: setattr(m.other, "forward", F.softplus),
    lambda m: setattr(m.tail, "norm", nn.Sequential(nn.BatchNorm2d(3).double())),
    lambda m: m.bn.eval(),
    lambda m: setattr(m, "other", m.bn),
]
COPIES: list[Callable[[Any], Any]] = [
    lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)),
]  # fmt: skip


def build(make: Any, seed: int, fuse: bool) -> Any:
    torch.default_generator.manual_seed(seed)
    model = make().double()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.1  # a dead channel divides by its root: no rounding becomes a number
            nn.init.uniform_(layer.weight, -0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.3)
    convert_(model, fuse=fuse)
    return model


def check(make: Any, seed: int, text: str) -> tuple[bool, bool]:
    """Train, evaluate, copy, edit, train, revert. Whether it is fused, and whether it runs."""
    plain, fused = build(make, seed, False), build(make, seed, True)
    is_fused_ = any(map(is_fused, fused.modules()))
    wanted = observe(plain, True)
    same(observe(fused, True), wanted, text)
    fused.load_state_dict(plain.state_dict())  # training is equal up to rounding only
    same(
        observe(fused, False, grad=False),
        observe(plain, False, grad=False),
        text,
        exact="enable_grad" not in text,
    )
    same(observe(fused, False), observe(plain, False), text)
    fused = COPIES[seed % len(COPIES)](fused)
    EDITS[seed % len(EDITS)](plain), EDITS[seed % len(EDITS)](fused)
    same(observe(fused, True), observe(plain, True), text)
    revert_(fused)
    assert not any(map(is_fused, fused.modules()))
    return is_fused_, isinstance(wanted, dict)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("index", range(FILES))
def test_generated_blocks(index: int, tmp_path: Path, calls: list[tuple[Any, bool]]) -> None:
    first = index * PER_FILE
    counts = [0, 0]
    for seed in range(first, first + PER_FILE):
        text = Writer(seed).write()
        try:
            fused, ran = check(load(tmp_path, seed, text), seed, text)
        except BaseException as error:
            raise AssertionError(f"{text}\n{error}") from error
        del sys.modules[f"generated_{seed}"]
        counts[0] += fused
        counts[1] += ran
    assert counts[1] >= 0.5 * PER_FILE
    one_call = [residual for activation, residual in calls if activation is not None]
    assert len(one_call) > 3 * PER_FILE
    assert sum(one_call) > PER_FILE / 8  # 21 to 60: few sites have a residual
    assert counts[0] >= 0.3 * PER_FILE


@pytest.mark.parametrize(
    "layers", ["bn other last", "bn bn other", "other bn other", "last tail bn"]
)
def test_three_layers_in_any_order(layers: str, tmp_path: Path, calls: list[Any]) -> None:
    names = "abc"
    lines = [f"{name} = self.{layer}(x)" for name, layer in zip(names, layers.split(), strict=True)]
    ends = ["self.act({0} + {1}) * {2}", "self.act({1} + {0}) + self.six({2})"]
    every = itertools.product(itertools.permutations(lines), itertools.permutations(names, 2), ends)
    for seed, (order, added, end) in enumerate(every):
        (other,) = set(names) - set(added)
        body = [*order, f"return {end.format(*added, other)}"]
        text = f"class Block{seed}(Parts):\n    def forward(self, x):\n"
        text += "".join(f"        {line}\n" for line in body)
        try:
            assert check(load(tmp_path, seed, text), seed, text) == (True, True)
        except BaseException as error:
            raise AssertionError(f"{text}\n{error}") from error
        del sys.modules[f"generated_{seed}"]
    assert any(residual for _, residual in calls)
