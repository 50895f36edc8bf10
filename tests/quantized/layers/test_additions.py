"""What a float network has beside its layers' own forward is honoured, or refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

import l1bn
from l1bn import quantized


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        l1bn.L1BatchNormAct2d(4),
        nn.Conv2d(4, 4, 3, padding=1, bias=False),
        l1bn.L1BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(256, 4),
    )


def tensors(net):
    return {k: v.clone() for k, v in net.state_dict().items() if isinstance(v, torch.Tensor)}


def moved(net, train_step, images, labels) -> set[str]:
    before = tensors(net)
    for _ in range(3):
        train_step(net, images, labels)
    after = tensors(net)
    return {k for k, v in before.items() if not torch.equal(v, after[k])}


def masters(keys: set[str]) -> set[str]:
    return {k.removesuffix(".weight") for k in keys if k.endswith((".weight.weight", "a.weight"))}


class TestFrozen:
    def test_weights_without_gradient_stay(self, backend, train_step, images, labels):
        model = plain()
        model[2].weight.requires_grad_(False)
        model[3].weight.requires_grad_(False)
        model[5].bias.requires_grad_(False)
        net = quantized.prepare(model, backend=backend)
        net.set_rates(1.0, 1.0)
        keys = moved(net, train_step, images, labels)
        assert not {k for k in keys if k.startswith(("layers.1.weight.", "layers.1.norm.gamma"))}
        assert not {k for k in keys if k.startswith("layers.3.bias")}
        assert {"layers.0.weight.weight", "layers.1.norm.beta.weight"} <= keys

    def test_a_frozen_backbone_keeps_nothing(self, backend, train_step, images, labels):
        model = plain()
        model[:4].requires_grad_(False)
        net = quantized.prepare(model, backend=backend)
        net(images)
        assert not any(layer.kept() for layer in list(net.layers)[:-1])
        keys = moved(net, train_step, images, labels)
        assert all(k.startswith("layers.3") or "running" in k or "num_" in k for k in keys), keys

    def test_it_can_be_thawed(self, backend, train_step, images, labels):
        net = quantized.prepare(plain().requires_grad_(False), backend=backend)
        with pytest.raises(RuntimeError, match="all rates are 0, or all are frozen"):
            train_step(net, images, labels)
        net.layers[0].weight.requires_grad_(True)
        keys = moved(net, train_step, images, labels)
        assert "layers.0.weight.weight" in keys
        assert not any(k.startswith("layers.1.weight") for k in keys)
        net.requires_grad_(True)
        assert "layers.1.weight.weight" in moved(net, train_step, images, labels)

    def test_statistics_of_a_norm_in_evaluation_mode_stay(
        self, backend, train_step, images, labels
    ):
        model = plain()
        model(images.real())
        model[1].eval()
        net = quantized.prepare(model, backend=backend)
        keys = moved(net, train_step, images, labels)
        assert not {k for k in keys if k.startswith("layers.0.norm.running")}
        assert "layers.1.norm.running_mean" in keys


def hooked(register):
    model = plain()
    register(model)
    return model


REFUSED = {
    "forward hook": (
        lambda m: m[0].register_forward_hook(lambda *a: None),
        r"0 \(Conv2d\): expected a layer without hooks, got a forward hook; remove it",
    ),
    "forward pre-hook": (
        lambda m: m.register_forward_pre_hook(lambda *a: None),
        r"network \(Sequential\): .* got a forward pre-hook",
    ),
    "backward hook": (
        lambda m: m[3].register_full_backward_hook(lambda *a: None),
        r"3 \(L1BatchNorm2d\): .* got a backward hook",
    ),
    "gradient hook": (
        lambda m: m[0].weight.register_hook(lambda g: g),
        r"0 \(Conv2d\)\.weight: expected a parameter without hooks",
    ),
    "pruning": (
        lambda m: prune.l1_unstructured(m[5], "weight", amount=0.5),
        r"5 \(Linear\): .* got pruning of weight; .*prune\.remove\(layer, 'weight'\)",
    ),
    "spectral_norm": (lambda m: spectral_norm(m[0]), r"got spectral_norm; .*remove_spectral_norm"),
    "parametrization": (
        lambda m: parametrizations.weight_norm(m[0]),
        r"got weight parametrized by _WeightNorm; .*remove_parametrizations\(layer, 'weight'\)",
    ),
    "own forward": (
        lambda m: setattr(m[0], "forward", lambda x: x),
        r"0 \(Conv2d\): expected the forward of its type",
    ),
}


class Standardized(l1bn.L1BatchNorm2d):
    def forward(self, input, mask=None):
        return super().forward(input, mask) * 2


@pytest.mark.parametrize("case", REFUSED)
def test_additions_are_refused_by_name(case):
    register, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        quantized.prepare(hooked(register))


def test_subclasses_of_another_forward_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Standardized(4))
    with pytest.raises(ValueError, match=r"1 \(Standardized\): .* a subclass whose forward is"):
        quantized.prepare(model)


def test_norms_with_an_activation_of_timm_are_taken(backend, train_step, images, labels):
    layers = pytest.importorskip("timm.layers", reason="needs timm")
    model = plain()
    model[1] = layers.BatchNormAct2d(4)
    model[3] = nn.BatchNorm2d(4)
    net = quantized.prepare(model, quantized.Config(norm="l2"), backend=backend)
    assert net.layers[0].relu
    train_step(net, images, labels)


def test_pruning_made_permanent_is_taken():
    model = plain()
    prune.l1_unstructured(model[5], "weight", amount=0.5)
    prune.remove(model[5], "weight")
    net = quantized.prepare(model)
    assert (net.layers[3].weight.weight == 0).float().mean() >= 0.5
