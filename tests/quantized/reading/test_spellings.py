"""The same network in other words is the same integer network, bit by bit."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from l1bn import quantized


class Spelled(nn.Module):
    """A convolution, BatchNorm and ReLU, then what `body` says, then a linear layer."""

    def __init__(self, body, features: int, channels: int = 4) -> None:
        super().__init__()
        self.body = body
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.head = nn.Linear(features, 4)

    def forward(self, x):
        return self.head(self.body(F.relu(self.bn(self.conv(x)))))


def layers(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(*more, nn.Flatten())


POOL = layers(nn.AdaptiveAvgPool2d(1))
SPELLINGS = {
    "view by size": (lambda x: x.view(x.size(0), -1), layers()),
    "view by shape": (lambda x: x.view(x.shape[0], -1), layers()),
    "reshape by unpacked shape": (
        lambda x: (lambda n, c, h, w: x.reshape(n, c * h * w))(*_unpack(x)),
        layers(),
    ),
    "view by numbers": (lambda x: x.view(-1, 4 * 64), layers()),
    "view by a tuple": (lambda x: torch.reshape(x, (x.size(0), 256)), layers()),
    "flatten": (lambda x: torch.flatten(x, start_dim=1), layers()),
    "mean": (lambda x: x.mean((2, 3)), POOL),
    "mean from the end": (lambda x: torch.mean(x, dim=[-1, -2]), POOL),
    "mean that keeps dimensions": (lambda x: x.mean([2, 3], keepdim=True).flatten(1), POOL),
    "squeezed": (lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1), POOL),
    "adaptive": (
        lambda x: F.adaptive_avg_pool2d(x, (2, 2)).flatten(1),
        layers(nn.AdaptiveAvgPool2d((2, 2))),
    ),
    "max": (lambda x: F.max_pool2d(x, 2).flatten(1), layers(nn.MaxPool2d(2))),
    "max by name": (
        lambda x: F.max_pool2d(x, kernel_size=3, stride=2, ceil_mode=True).flatten(1),
        layers(nn.MaxPool2d(3, 2, ceil_mode=True)),
    ),
    "average": (lambda x: F.avg_pool2d(x, 2).flatten(1), layers(nn.AvgPool2d(2))),
    "overlapping averages": (
        lambda x: F.avg_pool2d(x, 3, 2, 1).flatten(1),
        layers(nn.AvgPool2d(3, 2, 1)),
    ),
    "relu6": (lambda x: F.relu6(x).flatten(1), layers(nn.ReLU6())),
    "clamp": (lambda x: x.clamp(0, 6).flatten(1), layers(nn.ReLU6())),
    "hardswish": (lambda x: F.hardswish(x).flatten(1), layers(nn.Hardswish())),
    "pad": (lambda x: F.pad(x, (0, 1, 2, 0)).flatten(1), layers(nn.ZeroPad2d((0, 1, 2, 0)))),
    "interpolate": (
        lambda x: F.interpolate(x, scale_factor=2).flatten(1),
        layers(nn.Upsample(scale_factor=2)),
    ),
    "dropout": (lambda x: F.dropout(x, 0.25).flatten(1), layers(nn.Dropout(0.25))),
}


def _unpack(x):
    n, c, h, w = x.shape
    return n, c, h, w


def prepared(body, backend: str) -> quantized.IntegerNetwork:
    torch.manual_seed(0)
    probe = nn.Sequential(body) if isinstance(body, nn.Module) else body
    features = probe(torch.zeros(1, 4, 8, 8)).shape[1]
    torch.manual_seed(0)
    return quantized.prepare(Spelled(body, features), backend=backend)


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_function_is_the_layer_that_says_the_same(name, train_step, images, labels):
    function, module = SPELLINGS[name]
    networks = prepared(function, "eager"), prepared(module, "auto")
    kinds = [[type(layer) for layer in net.layers] for net in networks]
    assert kinds[0] == kinds[1]
    for _ in range(2):
        losses = [train_step(net, images, labels).value for net in networks]
        assert losses[0] == losses[1]
    first, second = (dict(enumerate(net.integer_parameters())) for net in networks)
    assert all(torch.equal(first[i].weight, second[i].weight) for i in first)


def test_a_plain_norm_and_its_relu_are_one_layer_with_the_product():
    net = prepared(lambda x: x.mean((2, 3)), "auto")
    kinds = [type(layer).__name__ for layer in net.layers]
    assert kinds == ["ProductNormLayer", "AveragePoolLayer", "FlattenLayer", "ProductLayer"]
    assert net.layers[0].relu


def test_a_relu_that_another_layer_reads_past_stays_alone():
    net = prepared(lambda x: x.flatten(1), "auto")
    assert len(net.layers) == 3

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.bn(x)
            return F.relu(y) + y

    kinds = [type(layer).__name__ for layer in quantized.prepare(Both()).layers]
    assert kinds == ["NormLayer", "ReluLayer", "AddLayer"]


REFUSED = {
    "view of parts": (
        lambda x: x.view(x.size(0), 2, -1),
        r"view \(view, test_spellings\.py:\d+\): expected a view that flattens all but the batch",
    ),
    "mean of rows": (lambda x: x.mean(2), r"mean \(mean, .*expected a mean over all pixels"),
    "squeeze of all": (lambda x: x.squeeze(), r"squeeze .*which may be the batch"),
    "product": (lambda x: x * x, r"mul \(multiplication, test_spellings\.py:\d+\).*leave the gate"),
    "logits": (lambda x: F.log_softmax(x.flatten(1), 1), "takes the logits: remove it"),
    "slices": (lambda x: x[:, :2], r"getitem \(getitem, .*splits no tensors"),
    "a scaled tensor": (lambda x: x + 2, r"add \(test_spellings\.py:\d+\): .*got 2"),
    "a reflected border": (
        lambda x: F.pad(x, (1, 1, 1, 1), "reflect"),
        "expected padding of rows and columns by zeros",
    ),
    "joined images": (lambda x: torch.cat([x, x]), r"along their channels, got dim=0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_integer_form_is_refused_by_name_type_and_place(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        quantized.prepare(Spelled(function, 4))


def test_a_view_for_other_images_is_refused_before_anything_changes(images):
    net = quantized.prepare(Spelled(lambda x: x.view(-1, 4 * 25), 100))
    with pytest.raises(ValueError, match=r"view: expected 100 numbers an image, .* got 256"):
        net(images)


def test_a_parameter_of_the_forward_itself_is_refused():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return operator.mul(x, self.scale)

    with pytest.raises(ValueError, match=r"a parameter that the forward itself reads \(scale\)"):
        quantized.prepare(Scaled())
