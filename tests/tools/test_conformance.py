"""Every input in PyTorch's own database of module tests, on our layers beside theirs.

The database has BatchNorm1d, 2d and 3d; SyncBatchNorm is not in it, so L1SyncBatchNorm, which takes
any number of dimensions, is given all of theirs.

Where ours differ, for a reason:

* Training normalizes by the mean absolute deviation; there the judge is ``l1bn.reference``.
* An empty batch in training is counted and passes through. BN takes it, too, but makes NaN of
  running statistics that no other batch has moved (``nan`` in var of zero elements).
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import l1bn
from judge import assert_close
from l1bn import reference

PAIRS: dict[str, type[nn.Module]] = {
    "BatchNorm1d": l1bn.L1BatchNorm1d,
    "BatchNorm2d": l1bn.L1BatchNorm2d,
    "BatchNorm3d": l1bn.L1BatchNorm3d,
}
# In a process of its own: to import PyTorch's test helpers freezes global flags.
DUMP = """
import sys, torch
from torch.testing._internal.common_modules import module_db
found = []
for info in module_db:
    name = info.module_cls.__name__
    if "BatchNorm" not in name or "Lazy" in name:
        continue
    options = dict(device="cpu", dtype=torch.float64, requires_grad=True, training=True)
    for made in info.module_inputs_func(info, **options):
        found.append((name, made, "", ""))
    for made in info.module_error_inputs_func(info, **options):
        found.append((name, made.module_error_input, made.error_type.__name__, made.error_regex))
torch.save([
    (name, m.constructor_input.args, m.constructor_input.kwargs, m.forward_input.args[0].detach(),
     m.desc, error, text)
    for name, m, error, text in found
], sys.argv[1])
"""


class Input(NamedTuple):
    """A module input: class, arguments of the constructor, the tensor, and the error to come."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    x: Tensor
    description: str
    error: str
    text: str


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> list[Input]:
    pytest.importorskip("expecttest")  # PyTorch's helpers import it
    file: Path = tmp_path_factory.mktemp("database") / "inputs.pt"
    subprocess.run([sys.executable, "-W", "ignore", "-c", DUMP, str(file)], check=True)
    return [Input(*entry) for entry in torch.load(file)]


def _train(layer: nn.Module, x: Tensor) -> dict[str, Any]:
    x = x.clone().requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    return {"y": y.detach(), "dx": x.grad, "state": dict(layer.state_dict())}


def _judged(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, input gradient of the sum of squares, and the new running variance."""
    one = torch.ones(x.shape[1], dtype=x.dtype)
    weight = one if layer.weight is None else layer.weight.detach()
    bias = 0 * one if layer.bias is None else layer.bias.detach()
    y, statistics = reference.forward(x, weight, bias, eps=layer.eps)
    dx = reference.backward(2 * y, x, weight, bias, eps=layer.eps).input
    momentum = 1.0 if layer.momentum is None else layer.momentum
    count = x.numel() // x.shape[1]
    moved = reference.running_update(0 * one, one, statistics, count, momentum, layer.eps)[1]
    return y, dx, moved


@pytest.mark.parametrize("name", PAIRS)
def test_inputs(database: list[Input], name: str) -> None:
    inputs = [entry for entry in database if entry.name == name and not entry.error]
    assert len(inputs) >= 6
    for entry in inputs:
        theirs = getattr(nn, name)(*entry.args, **entry.kwargs).double()
        ours = PAIRS[name](*entry.args, **entry.kwargs).double()
        assert repr(ours).removeprefix("L1") == repr(theirs), entry.description
        fresh = copy.deepcopy(ours)
        want, got = _train(theirs, entry.x), _train(ours, entry.x)
        assert list(got["state"]) == list(want["state"])
        if entry.x.numel():
            y, dx, variance = _judged(fresh, entry.x)
            assert_close(got["y"], y, "double")
            assert_close(got["dx"], dx, "double")
            if ours.track_running_stats:
                assert_close(ours.running_var, variance, "double")
        else:
            assert got["y"].shape == got["dx"].shape == entry.x.shape
            assert all(bool(v.isfinite().all()) for v in got["state"].values())
        if ours.track_running_stats:
            assert int(ours.num_batches_tracked) == int(theirs.num_batches_tracked) == 1
            theirs.load_state_dict(ours.state_dict())
            assert_close(ours.eval()(entry.x), theirs.eval()(entry.x), "double")


@pytest.mark.parametrize("name", PAIRS)
def test_the_synchronised_layer_takes_them_all(database: list[Input], name: str) -> None:
    for entry in database:
        if entry.name == name and not entry.error and "bias" not in entry.kwargs:
            plain = PAIRS[name](*entry.args, **entry.kwargs).double()
            sync = l1bn.L1SyncBatchNorm(*entry.args, **entry.kwargs).double()
            assert_close(_train(sync, entry.x), _train(plain, entry.x), "exact")


def test_errors(database: list[Input]) -> None:
    wrong = [entry for entry in database if entry.error]
    assert len(wrong) >= 6
    for entry in wrong:
        layer = PAIRS[entry.name](*entry.args, **entry.kwargs).double()
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared
            layer(entry.x)
        assert entry.error == "ValueError"
        assert re.search(entry.text, str(caught.value))
        assert int(layer.num_batches_tracked) == 0
