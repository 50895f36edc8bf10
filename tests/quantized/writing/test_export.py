"""The exported model gives the same integers, in NumPy, in a process that has no torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import l1bn
from l1bn import quantized
from l1bn.fixed_point import inference

CONFIGS = [
    quantized.Config(),
    quantized.Config(sigma="pow2", per_channel=False),
    quantized.Config(norm="l2"),
    quantized.Config(norm="none"),
]


@pytest.mark.parametrize("model", ["resnet8", "vgg7"])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_numpy_gives_the_same_integers(
    network, train_step, images, labels, tmp_path, config, model
):
    net = network(model, config)
    for _ in range(3):
        train_step(net, images, labels)
    path = quantized.export(net, tmp_path / "model", images)
    assert path.name == "model.npz"
    assert net.training
    expected = net.eval()(images)
    exported = inference.load_model(path)
    assert exported.output_exponent == expected.exponent
    np.testing.assert_array_equal(exported.run(images.values.numpy()), expected.values.numpy())
    assert all(np.issubdtype(a.dtype, np.integer) for a in exported.arrays.values())


def test_average_pooling_is_exported(backend, train_step, images, labels, tmp_path):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        l1bn.L1BatchNormAct2d(4),
        nn.AvgPool2d((2, 2)),
        nn.Flatten(),
        nn.Linear(36, 4),
    )
    net = quantized.prepare(model, backend=backend)
    train_step(net, images, labels)
    exported = inference.load_model(quantized.export(net, tmp_path / "model", images))
    logits = net.eval()(images).values.numpy()
    np.testing.assert_array_equal(exported.run(images.values.numpy()), logits)


def test_it_runs_without_torch(network, train_step, images, labels, tmp_path):
    net = network()
    train_step(net, images, labels)
    path = quantized.export(net, tmp_path / "model.npz", images)
    np.save(tmp_path / "images.npy", images.values.numpy())
    code = (
        "import sys, numpy as np\n"
        "from l1bn.fixed_point import inference\n"
        f"y = inference.load_model({str(path)!r}).run(np.load({str(tmp_path / 'images.npy')!r}))\n"
        "assert 'torch' not in sys.modules\n"
        f"np.save({str(tmp_path / 'logits.npy')!r}, y)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    logits = np.load(tmp_path / "logits.npy")
    np.testing.assert_array_equal(logits, net.eval()(images).values.numpy())


def test_an_untrained_network_is_refused(network, images, tmp_path):
    with pytest.raises(ValueError, match="expected a trained network"):
        quantized.export(network(), tmp_path / "model", images)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="expected an exported integer model"):
        inference.load_model(tmp_path / "other.npz")


def test_floats_are_refused(network, train_step, images, labels, tmp_path):
    net = network()
    train_step(net, images, labels)
    exported = inference.load_model(quantized.export(net, tmp_path / "m", images))
    with pytest.raises(TypeError, match="expected a NumPy array of integers, got float32"):
        exported.run(images.real().numpy())


def test_evaluation_does_not_depend_on_the_batch(network, train_step, images, labels):
    net = network()
    for _ in range(3):
        train_step(net, images, labels)
    net.eval()
    whole = net(images).values
    parts = [
        net(quantized.QTensor(part, images.exponent)).values for part in images.values.split(5)
    ]
    assert torch.equal(whole, torch.cat(parts))
