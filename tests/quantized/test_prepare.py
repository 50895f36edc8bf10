"""What becomes of a float network, and clear refusals of what has no integer form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import l1bn
from l1bn import quantized
from l1bn.recipes.models import ModelSpec, build_model


def sequential(*layers):
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), l1bn.L1BatchNorm2d(8), *layers)


class Adding(nn.Module):
    """Two branches that meet in a plain addition, then a ReLU function."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4 * 64, 5)

    def forward(self, x):
        return self.head(torch.relu(self.one(x) + self.two(x)).flatten(1))


def test_products_norms_and_relus_become_one_layer():
    net = quantized.prepare(build_model("resnet8", "l1", ModelSpec(3, 8, 10)))
    kinds = [type(layer).__name__ for layer in net.layers]
    assert kinds.count("ProductNormLayer") == 9
    assert kinds.count("ProductLayer") == 1
    assert "NormLayer" not in kinds


def test_the_float_network_stays_as_it_is():
    model = build_model("resnet8", "l1", ModelSpec(3, 8, 10))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    quantized.prepare(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_masters_are_within_half_a_step_of_the_float_weights():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Flatten(), nn.Linear(8, 4))
    net = quantized.prepare(model)
    masters = list(net.integer_parameters())
    for weight, master in zip(model.parameters(), masters, strict=True):
        distance = (master.real().view(weight.shape) - weight.detach()).abs().max()
        assert float(distance) <= 0.5001 * 2.0**master.exponent
        assert int(master.weight.abs().max()) <= 2**15 // quantized.parameter.HEADROOM


def test_evaluation_of_a_trained_float_network_is_close():
    torch.manual_seed(0)
    model = build_model("resnet8", "l1", ModelSpec(3, 8, 10))
    x = torch.randn(64, 3, 8, 8).clamp(-3, 3)
    for _ in range(60):
        model(x)  # running statistics
    model.eval()
    net = quantized.prepare(model).eval()
    with torch.no_grad():
        expected, got = model(x), net(quantized.quantize(x, -5)).real()
    assert float((got - expected).std() / expected.std()) < 0.12


def test_plain_additions_train(backend, train_step, images, labels):
    torch.manual_seed(0)
    net = quantized.prepare(Adding(), backend=backend)
    losses = [train_step(net, images, labels, lr=0.02).value for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


REFUSED = {
    "BatchNorm": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)),
        r"1: expected L1BN, got BatchNorm2d; convert the network with l1bn.convert_",
    ),
    "groups": (
        sequential(nn.Conv2d(8, 8, 3, groups=8)),
        r"2: expected a convolution with groups 1",
    ),
    "dilation": (sequential(nn.Conv2d(8, 8, 3, dilation=2)), "with dilation"),
    "padding mode": (
        sequential(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")),
        "with padding_mode zeros, got reflect",
    ),
    "padding name": (sequential(nn.Conv2d(8, 8, 3, padding="same")), "padding"),
    "oblong stride": (sequential(nn.Conv2d(8, 8, 3, stride=(1, 2))), "with stride"),
    "activation": (sequential(nn.GELU()), r"2: expected a layer with an integer form .* got GELU"),
    "fused activation": (
        nn.Sequential(nn.Conv2d(3, 8, 3), l1bn.L1BatchNormAct2d(8, act_layer="silu")),
        r"1: expected the activation ReLU or none, got SiLU",
    ),
    "dropout": (sequential(nn.Dropout(0.5)), "2: expected a layer with an integer form"),
    "average pooling": (sequential(nn.AdaptiveAvgPool2d(2)), "2: expected a layer with"),
    "no averages": (
        nn.Sequential(nn.Conv2d(3, 8, 3), l1bn.L1BatchNorm2d(8, momentum=None)),
        r"1: expected running statistics with a momentum",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_integer_form_is_refused_by_name(case):
    model, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        quantized.prepare(model)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("1.weight", 2.5, r"1\.weight: expected values within ±1\.984, .* got 2\.5"),
        ("1.bias", -9.0, r"1\.bias: expected values within ±7\.938, .* got 9"),
        ("1.weight", float("nan"), r"1\.weight: expected values within"),
        ("0.weight", float("inf"), r"0\.weight: expected finite values"),
    ],
)
def test_values_that_no_format_holds_are_refused(parameter, value, message):
    model = sequential()
    model.state_dict()[parameter].view(-1)[0] = value
    with pytest.raises(ValueError, match=message):
        quantized.prepare(model)


def test_control_flow_is_refused():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"expected a network that torch\.fx can trace"):
        quantized.prepare(Branching())


def test_unknown_operations_are_refused():
    class Sine(nn.Module):
        def forward(self, x):
            return torch.sin(x)

    with pytest.raises(ValueError, match="expected an operation with an integer form"):
        quantized.prepare(Sine())


def test_a_batch_that_could_overflow_is_refused_before_anything_changes(backend):
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), l1bn.L1BatchNorm2d(2))
    net = quantized.prepare(model, backend=backend)
    images = quantized.QTensor(torch.zeros(9, 1, 128, 128, dtype=torch.int8), -5)
    before = {k: v.clone() for k, v in net.state_dict().items() if isinstance(v, torch.Tensor)}
    with pytest.raises(ValueError, match=r"0: expected sums .* use batches of at most 8 images"):
        net(images)
    after = net.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_a_single_value_per_channel_is_refused(backend):
    net = quantized.prepare(nn.Sequential(nn.Linear(4, 3), l1bn.L1BatchNorm1d(3)), backend=backend)
    with pytest.raises(ValueError, match="expected more than 1 value per channel"):
        net(quantized.QTensor(torch.ones(1, 4, dtype=torch.int8), -5))


def test_float_images_are_refused():
    net = quantized.prepare(sequential())
    with pytest.raises(TypeError, match="expected a QTensor of int8 images, got Tensor"):
        net(torch.randn(2, 3, 8, 8))


def test_backward_needs_a_forward_pass(images):
    net = quantized.prepare(sequential())
    with pytest.raises(RuntimeError, match="expected a forward pass in training mode first"):
        net.backward(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l3"}, "expected norm to be one of"),
        ({"sigma": "pow3"}, "expected sigma to be one of"),
        ({"norm": "l2", "sigma": "pow2"}, "only L1BN has it"),
        ({"master_bits": 32}, "expected master_bits of 8 to 16, got 32"),
        ({"error_bits": 1}, "expected error_bits of 2 to 8, got 1"),
    ],
)
def test_bad_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        quantized.Config(**options)


def test_an_unknown_backend_is_refused(images):
    net = quantized.prepare(sequential(), backend="tpu")
    with pytest.raises(ValueError, match="expected backend to be one of"):
        net(images)


@pytest.mark.parametrize("option", [{"lr": -1.0}, {"lr": 0.1, "momentum": 1.0}, {"lr": 100.0}])
def test_rates_outside_their_format_are_refused(option):
    with pytest.raises(ValueError, match="expected a rate in"):
        quantized.SGD(quantized.prepare(sequential()), **option)
