"""Tools that turn L1BN back into batch normalization: each is found, said, and can be undone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from torch import nn

import l1bn
from judge import assert_close

LAYERS = 3


def test_a_converted_model_is_as_it_should_be(l1_net: nn.Module) -> None:
    report = l1bn.check(l1_net)
    assert report
    assert report.l1 == ["bn", "block.bn1", "block.bn2"]
    assert "3 L1BN layers" in str(report)


def test_pytorchs_converter_is_found_also_in_a_copy_and_a_wrapper(
    l1_net: nn.Module,
) -> None:
    turned = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(l1_net))
    report = l1bn.check(nn.DataParallel(turned))
    assert not report
    assert len(report.turned_back) == LAYERS
    assert "is a SyncBatchNorm now: use convert_sync_" in str(report)


def test_a_lost_activation_is_found_without_a_record() -> None:
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(l1bn.L1BatchNormAct2d(4))
    report = l1bn.check(nn.Sequential(layer))
    assert not report
    assert "which does not call its drop, act" in str(report)


def test_layers_that_never_were_l1_are_listed_and_no_fault(bn_net: nn.Module) -> None:
    report = l1bn.check(bn_net)
    assert report
    assert len(report.others) == LAYERS


def test_reverting_forgets(l1_net: nn.Module) -> None:
    l1bn.revert_(l1_net)
    assert l1bn.check(l1_net)


def test_no_module() -> None:
    with pytest.raises(TypeError, match=r"check: expected a torch\.nn\.Module, got int"):
        l1bn.check(3)  # type: ignore[arg-type]


@pytest.fixture
def switch() -> Any:
    layer_sync = pytest.importorskip("lightning.pytorch.plugins.layer_sync")
    return layer_sync.TorchSyncBatchNorm()


def test_lightnings_switch_is_found_on_and_off_and_undone(
    l1_net: nn.Module, batch: Any, switch: Any
) -> None:
    before = {path: type(module) for path, module in l1_net.named_modules()}
    x = batch()
    want = l1_net.eval()(x)
    on = switch.apply(l1_net)
    assert len(l1bn.check(on).turned_back) == LAYERS
    off = switch.revert(on)  # layers of a class for any number of dimensions
    report = l1bn.check(off)
    assert len(report.turned_back) == LAYERS
    assert "is a _BatchNormXd now: use convert_sync_, or call convert_ again" in str(report)
    assert len(l1bn.convert_(off).converted) == LAYERS
    assert l1bn.check(off)
    assert {path: type(module) for path, module in off.named_modules()} == before
    assert_close(off.eval()(x), want, "order")


def test_lightnings_layer_that_never_was_l1_is_left(bn_net: nn.Module, switch: Any) -> None:
    off = switch.revert(switch.apply(bn_net))
    assert not l1bn.convert_(off).converted
    assert len(l1bn.check(off).others) == LAYERS


def test_a_fused_block_says_so_at_the_first_forward_in_training(
    l1_net: nn.Module, batch: Any, switch: Any
) -> None:
    for copied in (l1_net, copy.deepcopy(l1_net)):
        turned = switch.revert(switch.apply(copied))
        turned.eval()(batch())
        turned.train()
        with pytest.warns(UserWarning, match="was L1BN when convert_ ran") as said:
            turned(batch())
        # The block of the residual speaks for itself.
        texts = [str(warning.message).partition(" now")[0] for warning in said]
        assert texts == [
            f"layer {layer} was L1BN when convert_ ran and is a _BatchNormXd"
            for layer in ("'bn' of Net", "'bn1' of Block")
        ]
        turned(batch())  # a warning would be an error here
        turned.bn.eval()
        l1bn.convert_(turned)
        turned(batch())


def test_a_layer_that_was_exchanged_in_evaluation_mode_is_not_spoken_of(
    l1_net: nn.Module, batch: Any
) -> None:
    l1_net.bn = nn.BatchNorm2d(4).eval()
    l1_net(batch())
    l1bn.revert_(l1_net)
    l1_net.train()(batch())


def test_a_layer_within_a_wrapper_is_one_still(l1_net: nn.Module) -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

    l1_net.bn = Wrapper(l1_net.bn)
    report = l1bn.check(l1_net)
    assert report
    assert report.l1 == ["bn.inner", "block.bn1", "block.bn2"]
