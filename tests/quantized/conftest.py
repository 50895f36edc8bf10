"""A small residual network, its images, and every backend that can run here."""

from __future__ import annotations

import pytest
import torch

from l1bn import quantized
from l1bn.quantized.kernels import native
from l1bn.recipes.models import ModelSpec, build_model

BACKENDS = ["eager", "cpu"]


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    if request.param == "cpu" and (reason := native.unavailable()):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def images() -> quantized.QTensor:
    torch.manual_seed(0)
    values = torch.randint(-127, 128, (16, 3, 8, 8), dtype=torch.int8)
    return quantized.QTensor(values.contiguous(memory_format=torch.channels_last), -6)


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.arange(16) % 4


@pytest.fixture
def train_step():
    def step(network, images, labels, lr=0.1):
        optimizer = quantized.SGD(network, lr=lr, weight_decay=5e-4)
        loss = quantized.cross_entropy(network, network(images), labels, smoothing=0.1)
        network.backward(loss.error)
        optimizer.step()
        return loss

    return step


@pytest.fixture
def network(backend):
    def build(model="resnet8", config=None, norm="l1"):
        torch.manual_seed(1)
        float_model = build_model(
            model, norm, ModelSpec(3, 8, 4, 0.5 if "vgg" not in model else 1 / 32)
        )
        return quantized.prepare(float_model, config or quantized.Config(), backend=backend)

    return build
