"""No tensor of a training step holds floating-point numbers, without exception."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from l1bn import quantized
from l1bn.quantized.layers import simple
from l1bn.recipes.classification.integer import IntegerPreprocess
from l1bn.recipes.data import load_data

CSRC = Path(__file__).parents[3] / "csrc"


class IntegersOnly(TorchDispatchMode):
    """Raises at the first floating-point or complex operand or result of any operation."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_flatten((args, kwargs, result))[0]:
            if isinstance(value, torch.Tensor) and not _is_integer(value.dtype):
                raise AssertionError(f"{func}: {value.dtype} in a step of integer training")
        return result


def _is_integer(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex)


CONFIGS = [
    quantized.Config(),
    quantized.Config(sigma="pow2"),
    quantized.Config(norm="l2"),
    quantized.Config(norm="range"),
    quantized.Config(norm="none"),
    quantized.Config(stochastic=False, per_channel=False, error_bits=6, master_bits=12),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("model", ["resnet8", "vgg7"])
def test_a_training_step_is_made_of_integers(network, train_step, images, labels, config, model):
    net = network(model, config)
    with IntegersOnly():
        train_step(net, images, labels)


def test_evaluation_is_made_of_integers(network, images):
    net = network().eval()
    with IntegersOnly():
        net(images)


def test_preprocessing_is_made_of_integers():
    data = load_data("digits")
    prepare = IntegerPreprocess(data, torch.device("cpu"))
    with IntegersOnly():
        prepare(data.train.images[:8])


def test_a_planted_float_is_caught(network, train_step, images, labels, monkeypatch):
    def backward(self, error):
        halved = (error.values.float() * 0.5).to(torch.int8)
        return (quantized.QTensor(halved, error.exponent + 1),)

    monkeypatch.setattr(simple.FlattenLayer, "backward", backward)
    net = network()
    with IntegersOnly(), pytest.raises(AssertionError, match="float32 in a step"):
        train_step(net, images, labels)


def test_all_state_is_integer(network, train_step, images, labels):
    net = network()
    train_step(net, images, labels)
    tensors = {k: v for k, v in net.state_dict().items() if isinstance(v, torch.Tensor)}
    assert tensors
    assert all(_is_integer(t.dtype) for t in tensors.values())
    assert not list(net.parameters()), "a float parameter is left"


@pytest.mark.parametrize(
    "path", sorted(CSRC.glob("int8_*/**/*.*")), ids=lambda p: str(p.relative_to(CSRC))
)
def test_the_native_kernels_know_no_floating_point(path):
    """No type, no vector, no function, no intrinsic and no number of floating point."""
    words = r"\b(float|double|_Float\d+|__m\d+d?|sqrt\w*|math\.h)\b"
    found = re.search(words + r"|_p[sdh]\(|\b\d{1,3}\.\d", path.read_text())
    assert found is None, f"{path.name} names {found}"
