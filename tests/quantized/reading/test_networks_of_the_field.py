"""MLPerf Tiny's networks and lines of samples: prepared as they are, trained, exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from l1bn import quantized
from l1bn.fixed_point.inference import load_model
from l1bn.quantized.kernels import native
from mlperf_tiny import DSCNN, Autoencoder, MobileNetV1, ResNet8


class Lines(nn.Module):
    """Three layers over lines of samples, with every layer of one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 8, 5, stride=2, padding=2, bias=False)
        self.bn = nn.BatchNorm1d(8)
        self.depthwise = nn.Conv1d(8, 8, 3, padding="same", dilation=2, groups=8)
        self.bn2 = nn.BatchNorm1d(8)
        self.pool = nn.MaxPool1d(3, 2, ceil_mode=True)
        self.average = nn.AvgPool1d(2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.pool(F.relu(self.bn(self.stem(x))))
        x = self.average(F.relu(self.bn2(self.depthwise(x))))
        return self.head(x.mean(-1))


NETWORKS = {
    "resnet8": (ResNet8, (4, 3, 32, 32), 10),
    "mobilenet": (MobileNetV1, (2, 3, 96, 96), 2),
    "keywords": (lambda: DSCNN(16), (4, 1, 49, 10), 12),
    "lines": (Lines, (8, 2, 40), 3),
}


def drawn(shape) -> quantized.QTensor:
    generator = torch.Generator().manual_seed(1)
    return quantized.quantize(torch.randn(shape, generator=generator).clamp(-3.9, 3.9), -5)


@pytest.mark.parametrize("name", NETWORKS)
def test_backends_train_the_same_network_and_its_export_computes_it(name, tmp_path, train_step):
    build, shape, classes = NETWORKS[name]
    torch.manual_seed(0)
    model, images, labels = build(), drawn(shape), torch.arange(shape[0]) % classes
    backends = ["eager"] if native.unavailable() else ["eager", "cpu"]
    networks = [quantized.prepare(model, backend=b) for b in backends]
    for _ in range(2):
        losses = {train_step(net, images, labels, lr=0.02).value for net in networks}
        assert len(losses) == 1
    states = [net.state_dict() for net in networks]
    tensors = [k for k, v in states[0].items() if isinstance(v, torch.Tensor)]
    assert all(torch.equal(states[0][k], states[-1][k]) for k in tensors)
    net = networks[-1]
    path = quantized.export(net, tmp_path / "model", images)
    values = images.values[:, :, None] if images.values.dim() == 3 else images.values
    found = load_model(path).run(values.numpy())
    np.testing.assert_array_equal(found, net.eval()(images).values.numpy())


def close(model: nn.Module, images: quantized.QTensor) -> float:
    """How far the prepared network is from the float one, in standard deviations of the output."""
    with torch.no_grad():
        for _ in range(60):
            model(images.real())
        model.eval()
        expected = model(images.real())
        got = quantized.prepare(model).eval()(images).real()
    return float((got - expected).std() / expected.std())


@pytest.mark.parametrize("name", ["resnet8", "keywords", "lines"])
def test_a_prepared_network_is_near_the_float_one(name):
    build, shape, _ = NETWORKS[name]
    torch.manual_seed(0)
    assert close(build(), drawn((16, *shape[1:]))) < 0.2


def test_a_padding_becomes_part_of_the_convolution():
    net = quantized.prepare(DSCNN(4))
    assert type(net.layers[0]).__name__ == "ProductNormLayer"
    assert net.layers[0].product.geometry.padding == (4, 5, 1, 1)
    kept = quantized.prepare(nn.Sequential(nn.ZeroPad2d((1, -1, 0, 0)), nn.Conv2d(3, 4, 3)))
    assert type(kept.layers[0]).__name__ == "PadLayer"


def test_an_autoencoder_learns_from_squared_errors():
    torch.manual_seed(0)
    codes = torch.randn(256, 3) @ torch.randn(3, 64)
    lines = quantized.quantize(codes / codes.std() * 0.9, -5)
    net = quantized.prepare(Autoencoder(64, 32, 4))
    optimizer = quantized.SGD(net, lr=0.1)
    values = []
    for _ in range(80):
        loss = quantized.squared_error(net, net(lines), lines)
        net.backward(loss.error)
        optimizer.step()
        values.append(loss.value)
    assert values[-1] < 0.35 * values[0]


def test_lines_have_one_row_when_pixels_are_copied(backend):
    body = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Upsample(scale_factor=2), nn.Conv1d(4, 4, 3))
    first = nn.Sequential(nn.Upsample(scale_factor=(2,)), nn.Conv1d(2, 4, 3))
    for model, length in ((body, 14), (first, 18)):
        net = quantized.prepare(model, backend=backend)
        out = net(drawn((3, 2, 10)))
        assert out.shape == (3, 4, length)
        net.backward(quantized.QTensor(torch.ones(out.shape, dtype=torch.int8), -4))


def test_lines_come_out_as_lines(backend):
    net = quantized.prepare(nn.Conv1d(2, 4, 3), backend=backend)
    out = net(drawn((3, 2, 10)))
    assert out.shape == (3, 4, 8)
    net.backward(quantized.QTensor(torch.ones(3, 4, 8, dtype=torch.int8), -4))
    assert net.layers[0].weight.gradient.shape == (4, 2, 1, 3)
