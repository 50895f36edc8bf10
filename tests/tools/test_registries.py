"""Tools that look a layer up by its very type: the line that makes each of them see ours."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from torch import nn

import l1bn
from judge import assert_close

LAYERS = 3
L1 = [l1bn.L1BatchNorm1d, l1bn.L1BatchNorm2d, l1bn.L1BatchNorm3d]


def reverted(net: nn.Module) -> nn.Module:
    copied = copy.deepcopy(net)
    l1bn.revert_(copied)
    return copied


class TestCaptum:
    """Layer-wise relevance propagation."""

    @pytest.fixture
    def relevance(self, batch: Any) -> Any:
        attr = pytest.importorskip("captum.attr")
        x = batch()
        return lambda net: attr.LRP(net).attribute(x.clone().requires_grad_(), target=(0, 0, 0))

    @pytest.fixture
    def pair(self, bn_net: Any, l1_net: Any) -> tuple[nn.Module, nn.Module]:
        head = nn.Conv2d(4, 5, 6)

        def plain(net: Any) -> nn.Module:
            return nn.Sequential(net.stem, net.bn, nn.ReLU(), copy.deepcopy(head))

        return plain(bn_net).eval(), plain(l1_net).eval()

    def test_it_refuses_by_name(self, pair: Any, relevance: Any) -> None:
        with pytest.raises(TypeError, match="L1BatchNorm2d"):
            relevance(pair[1])

    def test_a_rule_or_a_reverted_copy(self, pair: Any, relevance: Any) -> None:
        from captum.attr._utils.lrp_rules import EpsilonRule

        bn, l1 = pair
        want = relevance(bn)
        assert_close(relevance(reverted(l1)), want, "exact")
        for module in l1.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.rule = EpsilonRule()  # type: ignore[assignment]
        assert_close(relevance(l1), want, "exact")


class TestOpacus:
    """Privacy: a layer that mixes the examples of a batch must not pass."""

    @pytest.fixture
    def validators(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        validators = pytest.importorskip("opacus.validators")
        found = validators.ModuleValidator
        monkeypatch.setattr(found, "VALIDATORS", dict(found.VALIDATORS))
        monkeypatch.setattr(found, "FIXERS", dict(found.FIXERS))
        return validators

    def test_it_must_be_told(self, l1_net: nn.Module, validators: Any) -> None:
        validator = validators.ModuleValidator
        assert not validator.validate(l1_net)  # why the page says to tell it
        assert len(validator.validate(reverted(l1_net))) == LAYERS
        validators.register_module_validator(L1)(validators.batch_norm.validate)
        validators.register_module_fixer(L1)(validators.batch_norm.fix)
        assert len(validator.validate(l1_net)) == LAYERS
        assert isinstance(validator.fix(l1_net).bn, nn.GroupNorm)


class TestCounters:
    """Operations of a model, by thop, ptflops and fvcore."""

    def test_thop(self, bn_net: Any, l1_net: Any, batch: Any) -> None:
        thop = pytest.importorskip("thop")
        from thop.vision.basic_hooks import count_normalization

        x = batch()[:1]
        want = thop.profile(bn_net.eval(), (x,), verbose=False)
        told = dict.fromkeys(L1, count_normalization)
        assert thop.profile(l1_net.eval(), (x,), custom_ops=told, verbose=False) == want
        assert thop.profile(reverted(l1_net), (x,), verbose=False) == want

    def test_ptflops(self, bn_net: Any, l1_net: Any) -> None:
        ptflops = pytest.importorskip("ptflops")
        from ptflops.pytorch_ops import bn_flops_counter_hook

        def count(net: nn.Module, **options: Any) -> Any:
            return ptflops.get_model_complexity_info(
                net, (3, 8, 8), as_strings=False, print_per_layer_stat=False, verbose=False,
                backend="pytorch", **options,
            )  # fmt: skip

        want = count(bn_net)
        told = dict.fromkeys(L1, bn_flops_counter_hook)
        assert count(copy.deepcopy(l1_net), custom_modules_hooks=told) == want
        assert count(reverted(l1_net)) == want

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    @pytest.mark.parametrize("training", [False, True])
    def test_fvcore(self, bn_net: Any, l1_net: Any, batch: Any, training: bool) -> None:
        fvcore = pytest.importorskip("fvcore.nn", exc_type=ImportError)
        x = batch()

        def count(net: nn.Module) -> Any:
            counted = fvcore.FlopCountAnalysis(net.train(training), x)
            return dict(counted.unsupported_ops_warnings(False).by_module())

        want = count(bn_net)
        assert want["bn"] > 0
        # In training the layer is plain operations, none of which has a name that fvcore counts.
        assert count(reverted(l1_net)) == want
        if not training:
            assert count(l1_net) == want
