"""Code that asks for nn.BatchNorm2d finds the layers, and does with them what it does with BN."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import l1bn
from judge import assert_close

LAYERS = 3
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def step(net: nn.Module, x: torch.Tensor) -> None:
    net(x).square().mean().backward()


@pytest.mark.parametrize("d", [1, 2, 3])
def test_each_layer_is_batch_norm(d: int) -> None:
    ours, theirs = getattr(l1bn, f"L1BatchNorm{d}d"), getattr(nn, f"BatchNorm{d}d")
    assert isinstance(ours(4), theirs)
    others = {getattr(nn, f"BatchNorm{k}d") for k in (1, 2, 3)} - {theirs}
    assert not isinstance(ours(4), tuple(others))
    assert isinstance(l1bn.L1SyncBatchNorm(4), nn.BatchNorm2d)
    assert isinstance(l1bn.L1BatchNormAct2d(4), l1bn.L1BatchNorm2d)


def test_the_usual_freezing_loop(l1_net: nn.Module, batch: Any) -> None:
    l1_net.train()
    for module in l1_net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    before = copy.deepcopy(dict(l1_net.named_buffers()))
    for _ in range(3):
        step(l1_net, batch())
    assert_close(dict(l1_net.named_buffers()), before, "exact")


class FrozenBatchNorm(nn.Module):
    """As in DETR: buffers only."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        self.register_buffer("scale", scale.detach().view(1, -1, 1, 1))
        shift = norm.bias - norm.running_mean * scale
        self.register_buffer("shift", shift.detach().view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


def freeze(module: nn.Module) -> int:
    done = 0
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm(child))
            done += 1
        else:
            done += freeze(child)
    return done


def test_replacement_by_frozen_layers(l1_net: nn.Module, batch: Any) -> None:
    x, want = batch(), l1_net.eval()
    want = l1_net(x)
    assert freeze(l1_net) == LAYERS
    torch.testing.assert_close(l1_net.train()(x), want)


def test_test_time_adaptation_collects_and_moves_gamma_and_beta(
    l1_net: nn.Module, batch: Any
) -> None:
    """TENT: every parameter off, those of batch normalization on, statistics of the batch."""
    l1_net.train().requires_grad_(False)
    parameters = []
    for module in l1_net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
            module.track_running_stats = False
            module.running_mean = module.running_var = None
            parameters += list(module.parameters())
    assert len(parameters) == 2 * LAYERS
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    before = [p.detach().clone() for p in parameters]
    probabilities = l1_net(batch()).softmax(1)
    (-probabilities * probabilities.log()).sum(1).mean().backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    l1_net.eval()(batch())  # without running statistics evaluation uses the batch


def test_inversion_hooks_read_input_statistics(l1_net: nn.Module, batch: Any) -> None:
    """DeepInversion: the distance of a batch's statistics to the running ones, differentiable."""
    losses: list[torch.Tensor] = []

    def hook(module: nn.BatchNorm2d, args: tuple[torch.Tensor], _: torch.Tensor) -> None:
        x = args[0]
        losses.append((x.mean((0, 2, 3)) - module.running_mean).norm())
        losses.append((x.var((0, 2, 3), unbiased=False) - module.running_var).norm())

    for module in l1_net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(hook)
    x = batch().requires_grad_()
    l1_net.eval()(x)
    torch.stack(losses).sum().backward()
    assert len(losses) == 2 * LAYERS
    assert bool(x.grad.abs().sum() > 0)


def test_adaptation_by_new_statistics(l1_net: nn.Module) -> None:
    """AdaBN, PreciseBN: statistics reset, then a plain average over batches of the new domain."""
    for module in l1_net.modules():
        if isinstance(module, BATCH_NORMS):
            module.reset_running_stats()
            module.momentum = None
    l1_net.train()
    x = torch.randn(64, 3, 8, 8) * 0.5 - 2
    with torch.no_grad():
        l1_net(x)
        want = l1_net(x)
        assert_close(l1_net.eval()(x), want, "half")


def test_statistics_of_many_batches_as_fvcore_takes_them(l1_net: nn.Module, batch: Any) -> None:
    """PreciseBN: it reads each batch's statistics off the running ones."""
    precise = pytest.importorskip("fvcore.nn.precise_bn", exc_type=ImportError)
    l1_net.train()
    assert len(precise.get_bn_modules(l1_net)) == LAYERS
    x = batch()
    twin = copy.deepcopy(l1_net)
    precise.update_bn_stats(l1_net, [x] * 3, 3)
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    twin(x)
    count = x.shape[0] * 6 * 6
    for name, want in twin.named_buffers():
        if "running_var" in name:  # it takes the variance of the batches, without M/(M - 1)
            assert_close(l1_net.get_buffer(name), want * (count - 1) / count, "single sums")
        elif "running_mean" in name:
            assert_close(l1_net.get_buffer(name), want, "single sums")


def test_federated_averaging_leaves_them_at_home(l1_net: nn.Module) -> None:
    """FedBN: parameters and buffers of normalization layers are not sent."""
    at_home = {
        f"{path}.{name}"
        for path, module in l1_net.named_modules()
        if isinstance(module, BATCH_NORMS)
        for name in module.state_dict()
    }
    assert at_home == {key for key in l1_net.state_dict() if "bn" in key}


def test_weight_decay_groups(l1_net: nn.Module) -> None:
    """As YOLO trainers do it: by every class of torch.nn that is a normalization."""
    norms = tuple(v for k, v in nn.__dict__.items() if "Norm" in k and isinstance(v, type))
    left_out = [m.weight for m in l1_net.modules() if isinstance(m, norms)]
    assert len(left_out) == LAYERS


def test_hugging_face_leaves_gamma_out_of_weight_decay(l1_net: nn.Module) -> None:
    from transformers.trainer_pt_utils import get_parameter_names

    decayed = get_parameter_names(l1_net, [nn.BatchNorm2d])
    assert not [name for name in decayed if "bn" in name]
    assert "stem.weight" in decayed


def test_zennits_canonizer_acts(bn_net: nn.Module, l1_net: nn.Module, batch: Any) -> None:
    pytest.importorskip("zennit")
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import EpsilonPlusFlat

    x, relevance = batch(), []
    for net in (bn_net.eval(), l1_net.eval()):
        composite = EpsilonPlusFlat(canonizers=[SequentialMergeBatchNorm()])
        with Gradient(model=net, composite=composite) as attributor:
            relevance.append(attributor(x, torch.eye(5)[[0] * 6])[1])
    assert_close(*relevance, "exact")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["weight", "bias", "running_mean", "running_var"])
def test_what_a_tool_lays_over_a_tensor_is_what_the_layer_sees(name: str, training: bool) -> None:
    """As zennit 1.0 does, which leaves the parameter where it was."""
    layer, plain = l1bn.L1BatchNorm2d(3).train(training), l1bn.L1BatchNorm2d(3).train(training)
    other = torch.rand(3) + 1
    object.__setattr__(layer, name, other.clone())
    setattr(plain, name, nn.Parameter(other) if name in ("weight", "bias") else other)
    x = torch.randn(4, 3, 5, 5)
    assert_close(layer(x), plain(x), "exact")
    assert_close(getattr(layer, name), getattr(plain, name), "exact")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_prunings_regularizer_and_pruner_act(l1_net: nn.Module, batch: Any) -> None:
    tp = pytest.importorskip("torch_pruning")
    x = batch()
    pruner = tp.pruner.BNScalePruner(
        l1_net, x, importance=tp.importance.BNScaleImportance(), pruning_ratio=0.5,
        ignored_layers=[l1_net.head],
    )  # fmt: skip
    step(l1_net.train(), x)
    before = l1_net.bn.weight.grad.clone()
    pruner.update_regularizer()
    pruner.regularize(l1_net)
    assert not torch.equal(l1_net.bn.weight.grad, before)
    pruner.step()
    assert l1_net.bn.num_features == len(l1_net.bn.running_var) == 2
    step(l1_net, x)


def test_torchvisions_frozen_layers(l1_net: nn.Module, batch: Any) -> None:
    misc = pytest.importorskip("torchvision.ops.misc", exc_type=ImportError)
    x, want = batch(), l1_net.eval()
    want = l1_net(x)
    for path, module in list(l1_net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            frozen = misc.FrozenBatchNorm2d(module.num_features, module.eps)
            frozen.load_state_dict(module.state_dict())
            l1_net.set_submodule(path, frozen)
    torch.testing.assert_close(l1_net.train()(x), want)


def _assert_same_evaluation(found: nn.Module, want: nn.Module, x: torch.Tensor) -> None:
    """Bit for bit; where the call takes gradients the kernels compute SiLU, to rounding."""
    with torch.no_grad():
        assert_close(found(x), want(x), "exact")
    assert_close(found(x), want(x), "single sums")


class TestTimm:
    """timm's functions on a converted network of timm's."""

    @pytest.fixture
    def pair(self) -> tuple[nn.Module, nn.Module]:
        norm_act = pytest.importorskip("timm.layers.norm_act", exc_type=ImportError)
        torch.manual_seed(3)
        bn = nn.Sequential(nn.Conv2d(3, 4, 3), norm_act.BatchNormAct2d(4, act_layer=nn.SiLU))
        bn(torch.randn(8, 3, 8, 8) * 2 + 1)
        l1 = copy.deepcopy(bn)
        l1bn.convert_(l1)
        assert type(l1[1]) is l1bn.L1BatchNormAct2d
        return bn.eval(), l1.eval()

    def test_a_converted_layer_is_timms(self, pair: Any) -> None:
        from timm.layers import BatchNormAct2d

        assert isinstance(pair[1][1], BatchNormAct2d)
        assert isinstance(l1bn.L1BatchNormAct2d(4), BatchNormAct2d)
        assert isinstance(l1bn.L1SyncBatchNormAct2d(4), BatchNormAct2d)

    def test_freezing_keeps_the_activation(self, pair: Any, batch: Any) -> None:
        from timm.layers.norm_act import freeze_batch_norm_2d

        x, want = batch(), pair[0](batch() * 0 + 1)
        frozen = freeze_batch_norm_2d(pair[1])
        torch.testing.assert_close(frozen(torch.ones(6, 3, 8, 8)), want)
        torch.testing.assert_close(frozen.train()(x), pair[0](x))

    def test_frozen_and_thawed_it_is_found_and_turned_again(self, pair: Any) -> None:
        """timm's unfreezing builds BN."""
        from timm.layers.norm_act import FrozenBatchNormAct2d
        from timm.utils.model import freeze, unfreeze

        x, want = torch.ones(6, 3, 8, 8), pair[1](torch.ones(6, 3, 8, 8))
        model = nn.ModuleDict({"features": pair[1]})
        l1bn.convert_(model)
        freeze(model)
        assert type(model.features[1]) is FrozenBatchNormAct2d
        torch.testing.assert_close(model.features(x), want)
        unfreeze(model)
        assert [item.path for item in l1bn.check(model).turned_back] == ["features.1"]
        l1bn.convert_(model)
        assert type(model.features[1]) is l1bn.L1BatchNormAct2d
        torch.testing.assert_close(model.eval().features(x), want)

    def test_split_layers_are_found_as_one(self, pair: Any) -> None:
        from timm.layers import convert_splitbn_model

        report = l1bn.check(convert_splitbn_model(pair[1], 2))
        assert [(item.path, item.text) for item in report.turned_back] == [
            ("1", "is a SplitBatchNorm2d now")
        ]
        assert not report.others

    def test_a_whole_network(self) -> None:
        timm = pytest.importorskip("timm")
        from timm.layers import convert_sync_batchnorm

        torch.manual_seed(0)
        bn = timm.create_model("test_efficientnet", num_classes=3).train()
        x = torch.randn(4, 3, 32, 32)
        bn(x)
        bn.eval()
        l1, want = copy.deepcopy(bn), bn(x)
        layers = len(l1bn.convert_(l1).converted)
        assert layers > 10
        assert_close(l1(x), want, "single sums")
        assert_close(convert_sync_batchnorm(copy.deepcopy(l1))(x), l1(x), "single sums")
        assert len(l1bn.convert_sync_(l1).converted) == layers
        assert_close(l1(x), want, "single sums")

    def test_its_synchronisation_keeps_the_function_and_is_found(
        self, pair: Any, batch: Any
    ) -> None:
        from timm.layers import convert_sync_batchnorm

        x, ones = batch(), torch.ones(6, 3, 8, 8)
        before = copy.deepcopy(pair[1])
        turned = convert_sync_batchnorm(pair[1])
        _assert_same_evaluation(turned, before, ones)
        found = l1bn.check(turned)
        assert not found
        assert [item.path for item in found.turned_back] == ["1"]
        l1bn.convert_(turned)
        assert type(turned[1]) is l1bn.L1SyncBatchNormAct2d
        assert l1bn.check(turned)
        _assert_same_evaluation(turned, pair[0], x)

    def test_our_synchronisation_takes_it_and_goes_back(self, pair: Any, batch: Any) -> None:
        bn, l1 = pair
        report = l1bn.convert_sync_(l1)
        assert [item.path for item in report.converted] == ["1"]
        x = batch()
        _assert_same_evaluation(l1, bn, x)
        l1bn.revert_(l1)
        assert type(l1[1]).__name__ == "SyncBatchNormAct"
        _assert_same_evaluation(l1, bn, x)
