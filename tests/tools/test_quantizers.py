"""Quantizers of PyTorch and torchao: they work where they work on BN, or refuse by name."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import l1bn
from judge import assert_close

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def test_quantization_fusers_refuse_by_name_and_take_a_reverted_model(l1_net: nn.Module) -> None:
    from torch.ao.quantization import fuse_modules_qat

    pairs = [["stem", "bn"]]
    with pytest.raises((AssertionError, NotImplementedError), match="L1BatchNorm2d"):
        fuse_modules_qat(copy.deepcopy(l1_net.train()), pairs)
    l1bn.revert_(l1_net)
    assert "ConvBn2d" in type(fuse_modules_qat(l1_net, pairs).stem).__name__


def test_fx_quantization_aware_training_leaves_them_as_they_are(
    l1_net: nn.Module, batch: Any
) -> None:
    """Its patterns know torch's very classes: convolutions are quantized, the layers stay."""
    from torch.ao.quantization import get_default_qat_qconfig_mapping, quantize_fx

    x = batch()
    net = quantize_fx.prepare_qat_fx(l1_net.train(), get_default_qat_qconfig_mapping(), (x,))
    net(x).sum().backward()
    assert type(net.bn) is l1bn.L1BatchNorm2d
    assert int(net.bn.num_batches_tracked) == 4
    assert "torch.ao.nn.qat" in type(net.stem).__module__


def test_torchaos_weights(bn_net: nn.Module, l1_net: nn.Module, batch: Any) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    x = batch()
    for net in (bn_net.eval(), l1_net.eval()):
        torchao.quantize_(net, torchao.Int8WeightOnlyConfig())
    assert type(l1_net.head.weight) is not nn.Parameter
    with torch.no_grad():
        assert_close(l1_net(x), bn_net(x), "exact")


def test_a_program_exported_in_training_mode_says_that_it_stays_there(batch: Any) -> None:
    """Quantization-aware training on exported programs: BN in, and BN's tools switch it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    l1bn.convert_(net)
    with pytest.warns(UserWarning, match=r"exported in training mode.*l1bn\.revert_"):
        torch.export.export(net.train(), (batch(),), strict=False)
    l1bn.revert_(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        program = torch.export.export(net, (batch(),), strict=False)
    assert any("batch_norm" in str(node.target) for node in program.graph.nodes)
    l1bn.convert_(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        program = torch.export.export(net.eval(), (batch(),), strict=False)
    assert any("batch_norm" in str(node.target) for node in program.graph.nodes)
