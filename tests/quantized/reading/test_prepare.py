"""What becomes of a float network, and clear refusals of what has no integer form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import l1bn
from judge import assert_close
from l1bn import quantized
from l1bn.quantized.norms import rule
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


class Sums(nn.Module):
    """Branches whose sum goes beyond ±8; the last linear layer copies it."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.first = l1bn.L1BatchNorm2d(4)
        self.second = l1bn.L1BatchNormAct2d(4) if fused else l1bn.L1BatchNorm2d(4)
        self.last = nn.Linear(4, 4, bias=False)
        self.fused = fused
        with torch.no_grad():
            for norm, mean in ((self.first, 5.0), (self.second, 7.0)):
                norm.weight.fill_(0.25)
                norm.bias.fill_(mean)
            self.last.weight.copy_(torch.eye(4))

    def forward(self, x):
        a = self.first(x)
        total = self.second(x, a) if self.fused else self.second(x) + a
        return self.last(torch.flatten(total, 1))


@pytest.mark.parametrize("fused", [True, False])
def test_sums_of_branches_have_a_range_of_16(fused):
    torch.manual_seed(0)
    model = Sums(fused)
    x = quantized.quantize(torch.randn(64, 4, 1, 1), -5)
    for _ in range(60):
        model(x.real())
    expected = model.eval()(x.real()).detach()
    errors = {}
    for fraction in (3, 4):
        net = quantized.prepare(model, quantized.Config(residual_fraction=fraction)).eval()
        errors[fraction] = float((net(x).real() - expected).abs().max())
    assert errors[3] < 0.3  # rounded three times to eighths and sixteenths
    assert errors[4] > 4  # ±8 cannot hold the mean of 12


@pytest.mark.parametrize("sigma", ["exact", "pow2"])
@pytest.mark.parametrize("fraction", range(5))
def test_every_range_of_sums_can_be_prepared(fraction, sigma):
    config = quantized.Config(residual_fraction=fraction, sigma=sigma)
    assert quantized.prepare(Sums(fused=True), config)


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
    "padding mode": (
        sequential(nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")),
        r"2 \(Conv2d\): expected padding_mode 'zeros', got 'reflect'",
    ),
    "activation": (
        sequential(nn.GELU()),
        r"2 \(GELU\): expected a layer with an integer form .* use Hardswish",
    ),
    "fused activation": (
        nn.Sequential(nn.Conv2d(3, 8, 3), l1bn.L1BatchNormAct2d(8, act_layer="silu")),
        r"1 \(L1BatchNormAct2d\): expected the activation ReLU, ReLU6, .*, got SiLU",
    ),
    "too much dropout": (
        sequential(nn.Dropout(0.999)),
        r"2 \(Dropout\): expected a probability of at most 0\.99",
    ),
    "averages of several divisors": (
        sequential(nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
        r"2 \(AvgPool2d\): expected averages of one divisor.*count_include_pad=False",
    ),
    "clipped averages": (sequential(nn.AvgPool2d(3, 2, ceil_mode=True)), "got ceil_mode"),
    "interpolation": (
        sequential(nn.Upsample(scale_factor=2, mode="bilinear")),
        r"2 \(Upsample\): expected whole scale factors with mode='nearest'",
    ),
    "transposed": (
        sequential(nn.ConvTranspose2d(8, 8, 2)),
        r"2 \(ConvTranspose2d\): .* use nn\.Upsample\(scale_factor=2\) and a convolution after it",
    ),
    "soft-max": (sequential(nn.Softmax(1)), "takes the logits: remove it"),
    "indices": (sequential(nn.MaxPool2d(2, return_indices=True)), "expected return_indices=False"),
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
        ({"residual_fraction": 5}, "expected residual_fraction of 0 to 4, got 5"),
    ],
)
def test_bad_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        quantized.Config(**options)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="expected backend to be one of"):
        quantized.prepare(sequential(), backend="tpu")


class Calling(nn.Module):
    """Applies a function of its layers to its input."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


def tied_norms():
    model = nn.Sequential(l1bn.L1BatchNorm2d(3), l1bn.L1BatchNorm2d(3))
    model[1].weight = model[0].weight
    return model


SILENT = {
    "two norms of one scale": (tied_norms(), r"1 \(L1BatchNorm2d\): expected parameters and"),
    "a scaled addition": (
        Calling(
            lambda m, x: m.a(x).add(m.b(x), alpha=3), a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 3, 1)
        ),
        "expected tensors as inputs, got 3",
    ),
    "an added number": (
        Calling(lambda m, x: m.a(x) + 1.0, a=nn.Conv2d(3, 3, 1)),
        "expected tensors as inputs, got 1.0",
    ),
    "a partly flattened tensor": (
        Calling(lambda m, x: m.a(x).flatten(1, 2), a=nn.Conv2d(3, 3, 1)),
        r"expected flatten\(1\)",
    ),
    "a layer that flattens in part": (sequential(nn.Flatten(1, 2)), r"expected nn\.Flatten\(1\)"),
    "a large window": (sequential(nn.MaxPool2d(12)), "at most 127 pixels"),
}


@pytest.mark.parametrize("case", SILENT)
def test_what_would_be_another_network_is_refused(case):
    model, message = SILENT[case]
    with pytest.raises(ValueError, match=message):
        quantized.prepare(model)


def test_broadcasting_additions_are_refused(images):
    def broadcast(m, x):
        y = m.a(x)
        return y + m.pool(y)

    model = Calling(broadcast, a=nn.Conv2d(3, 3, 1), pool=nn.AdaptiveAvgPool2d(1))
    net = quantized.prepare(model)
    with pytest.raises(ValueError, match="expected tensors of one shape"):
        net(images)


def test_a_sum_beside_a_bias_has_half_the_terms():
    net = quantized.prepare(nn.Linear(70_000, 2))
    with pytest.raises(ValueError, match="beside a bias, got 70000"):
        net(quantized.QTensor(torch.zeros(2, 70_000, dtype=torch.int8), -5))


def test_a_skip_connection_learns_beside_a_branch_of_zeros(backend, images):
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
            self.norm = l1bn.L1BatchNormAct2d(4)
            self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
            self.last = l1bn.L1BatchNorm2d(4)
            nn.init.zeros_(self.last.weight)  # common in residual networks
            self.head = nn.Linear(4 * 64, 4)

        def forward(self, x):
            y = self.norm(self.stem(x))
            return self.head((y + self.last(self.conv(y))).flatten(1))

    torch.manual_seed(0)
    net = quantized.prepare(Skip(), backend=backend)
    loss = quantized.cross_entropy(net, net(images), torch.arange(16) % 4)
    tiny = quantized.QTensor(loss.error.values, loss.error.exponent - 20)  # as late in a run
    net.backward(tiny)
    assert int(net.layers[0].weight.gradient.values.abs().max()) > 63


@pytest.mark.parametrize("mean", [0.0, 2.0, 6.0])
def test_float_statistics_far_from_zero_are_not_clipped(backend, mean):
    norm = l1bn.L1BatchNorm2d(3)
    norm.running_mean.fill_(mean)
    norm.running_var.fill_(0.98)  # σ just below 1: 32 steps, of which 8 bits hold ±4σ
    net = quantized.prepare(nn.Sequential(nn.ReLU(), norm), backend=backend).eval()
    layer = net.layers[1]
    wide = quantized.QTensor(torch.randint(0, 2**12, (4, 3, 8, 8)).int(), -9)  # 0 to 8
    shift = layer.norm.shift(wide.exponent)
    y, _ = layer.rule.evaluate(
        net.clock.kernels(wide.values),
        rule.Sums(wide.values.contiguous(memory_format=torch.channels_last), shift, wide.exponent),
        layer.norm,
        None,
        False,
    )
    expected = (wide.real() - mean) / 0.98**0.5
    inside = expected.abs() < 3.5
    assert (y * 2.0**-4 - expected)[inside].abs().max() < 0.12


def test_constants_stay_constant_at_any_rate(train_step, images, labels):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        l1bn.L1BatchNorm2d(4, affine=False),
        nn.Flatten(),
        nn.Linear(4 * 36, 4),
    )
    net = quantized.prepare(model)
    net.set_rates(1.0)
    train_step(net, images, labels)
    assert set(net.layers[0].norm.gamma.weight.tolist()) == {1 << 12}
    with pytest.raises(ValueError, match="expected factors of at least 0, got -1"):
        net.set_rates(-1.0)


def test_masters_of_another_width_are_refused():
    narrow = quantized.prepare(sequential(), quantized.Config(master_bits=8))
    with pytest.raises(
        ValueError, match="expected a state of master_bits=8, got one of master_bits=16"
    ):
        narrow.load_state_dict(quantized.prepare(sequential()).state_dict())


def test_collapsed_weights_can_grow_again(backend, train_step, images, labels):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(4 * 36, 4))
    nn.init.constant_(model[0].weight, 1e-20)
    net = quantized.prepare(model, backend=backend)
    before = net.layers[0].weight.weight.clone()
    train_step(net, images, labels)
    assert net.layers[0].weight.exponent >= -30
    assert not torch.equal(net.layers[0].weight.weight, before)


def test_global_averages_of_large_images(backend):
    net = quantized.prepare(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), backend=backend)
    x = quantized.QTensor(torch.full((1, 2, 260, 260), 64, dtype=torch.int8), 0)
    assert_close(net(x).real(), torch.full((1, 2), 64.0), "eight bits")


def test_quantize_takes_features_and_refuses_what_does_not_fit():
    assert quantized.quantize(torch.randn(8, 20), -5).values.shape == (8, 20)
    with pytest.raises(ValueError, match=r"expected values within ±3\.969, got \d+% outside"):
        quantized.quantize(torch.full((2, 3, 4, 4), 200.0), -5)
    with pytest.raises(ValueError, match="expected finite values"):
        quantized.quantize(torch.tensor([[float("nan")]]), -5)


def test_labels_of_another_type_are_refused(images, labels):
    net = quantized.prepare(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))
    with pytest.raises(ValueError, match=r"expected labels of torch\.int64, got torch\.uint8"):
        quantized.cross_entropy(net, net(images), labels.to(torch.uint8))


@pytest.mark.parametrize("option", [{"lr": -1.0}, {"lr": 0.1, "momentum": 1.0}, {"lr": 100.0}])
def test_rates_outside_their_format_are_refused(option):
    with pytest.raises(ValueError, match="expected a rate in"):
        quantized.SGD(quantized.prepare(sequential()), **option)
