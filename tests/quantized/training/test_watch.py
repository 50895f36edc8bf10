"""What a `Watch` notes is what the layers hold, and it changes nothing."""

from __future__ import annotations

import csv

import pytest
import torch
from torch import nn

from l1bn import quantized


def build(backend, dead=False):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 4),
    )
    if dead:
        nn.init.constant_(model[1].bias, -7.5)
        nn.init.constant_(model[1].weight[1:], 0.1)
    return quantized.prepare(model, backend=backend)


def backward(net, images, labels):
    net.backward(quantized.cross_entropy(net, net(images), labels).error)


def test_rows_say_what_the_layers_hold(backend, images, labels):
    net = build(backend, dead=True)
    with quantized.Watch(net) as watch:
        backward(net, images, labels)
        first, flat, last = watch.record(7)
    values = net.layers[0](images).values
    assert (first["step"], first["layer"], first["kind"]) == (7, "1", "ProductNormLayer")
    assert first["dead_channels"] >= 3
    assert first["channels"] == 4
    assert first["zero"] == pytest.approx(float((values == 0).float().mean()))
    assert first["exponent"] == -4
    weight = net.layers[0].weight
    assert first["gradient_exponent"] == weight.gradient.exponent
    assert first["weight_exponent"] == weight.narrow().exponent
    assert flat["weight_exponent"] == ""
    assert last["saturated"] == 0.0


def test_saturation_is_counted(backend):
    net = quantized.prepare(nn.Sequential(nn.ReLU(), nn.Linear(8, 2)), backend=backend)
    x = torch.tensor([[127, 127, 126, 0, -5, 1, 2, -128]] * 2, dtype=torch.int8)
    with quantized.Watch(net) as watch:
        net(quantized.QTensor(x, -4))
        row = watch.record(0)[0]
    assert row["saturated"] == 0.25
    assert row["zero"] == 0.375


def test_saturated_gradients_lie_at_the_end_of_their_own_bits(backend, images, labels):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))
    config = quantized.Config(error_bits=3, layers={"3": {"error_bits": 5}})
    net = quantized.prepare(model, config, backend=backend)
    with quantized.Watch(net) as watch:
        backward(net, images, labels)
        first, _, last = watch.record(0)
        for row, layer, end in ((first, net.layers[0], 3), (last, net.layers[2], 15)):
            share = float((layer.weight.gradient.values.abs() == end).float().mean())
            assert row["gradient_saturated"] == pytest.approx(share) != 0
        for _ in range(2):
            backward(net, images, labels)
        assert [row["gradient_saturated"] for row in watch.record(1)] == [0, "", 0]


def test_it_changes_nothing_and_leaves_nothing_behind(backend, train_step, images, labels):
    seen, plain = build(backend), build(backend)
    with quantized.Watch(seen) as watch:
        for step in range(3):
            assert train_step(seen, images, labels).value == train_step(plain, images, labels).value
            watch.record(step)
    assert all(
        torch.equal(a.weight, b.weight)
        for a, b in zip(seen.integer_parameters(), plain.integer_parameters(), strict=True)
    )
    assert not any(layer._forward_hooks for layer in seen.layers)
    with pytest.raises(RuntimeError, match="expected a batch to record, got none"):
        watch.record(3)


def test_rows_go_to_csv_and_to_a_summary_writer(backend, images, labels, tmp_path):
    net = build(backend)
    with quantized.Watch(net) as watch:
        for step in range(2):
            backward(net, images, labels)
            watch.record(step)
            net.zero_grad()
    with watch.to_csv(tmp_path / "watch.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows] == ["1", "3", "4"] * 2

    class Writer:
        def __init__(self):
            self.seen = {}

        def add_scalar(self, tag, scalar_value, global_step):
            self.seen[tag, global_step] = scalar_value

    writer = Writer()
    watch.to_tensorboard(writer)
    assert writer.seen["1/exponent", 1] == -4
    assert ("3/weight_exponent", 0) not in writer.seen
