"""Models that must not be changed in place are refused with the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from l1bn import calibrate_, convert_, convert_sync_, revert_
from zoo import SmallResNet

VERBS: list[Callable[[Any], Any]] = [convert_, revert_, convert_sync_]
every_verb = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)


@pytest.fixture
def process_group(tmp_path: Any) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def refused(verb: Callable[[Any], Any], model: nn.Module, text: str) -> None:
    types = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match=re.escape(f"{verb.__name__}: {text}")):
        verb(model)
    assert [type(module) for module in model.modules()] == types


@every_verb
def test_not_a_module(verb: Any) -> None:
    with pytest.raises(TypeError, match=rf"{verb.__name__}: expected a torch.nn.Module, got dict"):
        verb({})


@every_verb
def test_compiled(verb: Any) -> None:
    refused(
        verb,
        torch.compile(SmallResNet(), backend="eager"),
        "expected a plain module, got one compiled by torch.compile: "
        f"call {verb.__name__} on the original (compiled._orig_mod), then torch.compile it again",
    )


@every_verb
def test_scripted_part(verb: Any) -> None:
    part = torch.jit.trace(nn.BatchNorm2d(3).eval(), torch.zeros(1, 3, 2, 2))
    refused(
        verb,
        nn.Sequential(nn.Conv2d(3, 3, 1), part),
        "expected a Python module, got a ScriptModule at '1': its layers cannot be changed; "
        f"call {verb.__name__} on the Python model, then script or trace it again",
    )


@every_verb
def test_distributed(verb: Any, process_group: None) -> None:
    refused(
        verb,
        nn.parallel.DistributedDataParallel(SmallResNet()),
        "expected a plain module, got DistributedDataParallel: the wrapper has set up its own "
        f"state for these layers; call {verb.__name__} on the model first and wrap it afterwards",
    )


def test_data_parallel_inside() -> None:
    refused(
        convert_,
        nn.Sequential(nn.DataParallel(nn.BatchNorm2d(3))),
        "expected a plain module, got DataParallel at '0'",
    )


def test_fully_sharded(process_group: None) -> None:
    from torch.distributed.fsdp import fully_shard

    model = SmallResNet()
    fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))
    refused(convert_, model, "expected a plain module, got FSDPModule")


@pytest.mark.parametrize(
    "call",
    [
        lambda model: convert_(model, example=torch.zeros(2, 3, 4, 4)),
        lambda model: calibrate_(model, [torch.zeros(2, 3, 4, 4)]),
    ],
    ids=["convert_", "calibrate_"],
)
def test_lazy_layers_are_not_run(call: Any) -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 1), nn.BatchNorm2d(4))
    text = "expected a model whose parameters exist, got a lazy one at '0.weight': run the model"
    with pytest.raises(ValueError, match=text):
        call(model)
    assert [type(module) for module in model] == [nn.LazyConv2d, nn.BatchNorm2d]
