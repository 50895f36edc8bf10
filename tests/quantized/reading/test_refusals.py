"""What an integer network is given and cannot use is refused, by saying what it wants."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import l1bn
from l1bn import quantized
from l1bn.fixed_point import loss as judge

STEPS = torch.zeros(2, 3, 8, 8, dtype=torch.int8)


def small(backend="auto", config=None, model=None):
    torch.manual_seed(0)
    model = model or nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), l1bn.L1BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4)
    )
    return quantized.prepare(model, config, backend=backend)


def tensors(net):
    return {k: v.clone() for k, v in net.state_dict().items() if isinstance(v, torch.Tensor)}


def same(before, net):
    return all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


class TestSums:
    def test_evaluation_refuses_sums_that_could_overflow(self, backend):
        conv = nn.Conv2d(14_700, 2, 3, bias=False)
        net = small(backend, model=nn.Sequential(conv)).eval()
        x = quantized.QTensor(torch.full((1, 14_700, 3, 3), -128, dtype=torch.int8), -5)
        with pytest.raises(ValueError, match=r"0: expected sums .*got 132300 in the output"):
            net(x)

    def test_the_largest_sum_that_is_taken_is_exact(self, backend):
        terms = (2**31 - 1) // (127 * 128)
        net = small(backend, model=nn.Linear(terms, 1, bias=False)).eval()
        master = next(net.integer_parameters())
        master.weight.fill_(-(2**15 - 1))
        x = quantized.QTensor(torch.full((1, terms), -128, dtype=torch.int8), -5)
        assert net(x).values.item() == terms * 127 * 128

    def test_a_batch_beyond_training_can_be_evaluated(self, backend):
        conv = nn.Conv2d(1, 2, 1, bias=False)
        net = small(backend, model=nn.Sequential(conv, l1bn.L1BatchNorm2d(2)))
        x = quantized.QTensor(torch.zeros(9, 1, 128, 128, dtype=torch.int8), -5)
        with pytest.raises(ValueError, match="use batches of at most 8 images"):
            net(x)
        assert net.eval()(x).shape == (9, 2, 128, 128)

    def test_averages_whose_reciprocal_is_nothing(self, backend):
        net = small(backend, model=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        x = quantized.QTensor(torch.zeros((), dtype=torch.int8).expand(1, 1, 1024, 257), -5)
        with pytest.raises(ValueError, match="0: expected averages of at most 262144 pixels"):
            net(x)

    def test_norms_of_more_values_than_64_bits_hold(self):
        net = small(model=nn.Sequential(nn.ReLU(), l1bn.L1BatchNorm2d(1)))
        with pytest.raises(ValueError, match="1: expected at most 8388608 values per channel"):
            net.check(torch.Size((2, 1, 2048, 4096)))


class TestShapes:
    @pytest.mark.parametrize("training", [True, False])
    def test_empty_batches_and_wrong_channels(self, backend, training):
        net = small(backend).train(training)
        with pytest.raises(ValueError, match="expected at least one image, got shape"):
            net(quantized.QTensor(STEPS[:0], -5))
        with pytest.raises(ValueError, match=r"0: expected input of shape \(N, 3, H, W\)"):
            net(quantized.QTensor(STEPS[:, :2], -5))
        with pytest.raises(ValueError, match=r"0: expected images of at least 3 x 3 pixels"):
            net(quantized.QTensor(STEPS[:, :, :2], -5))

    def test_windows_that_no_image_fills(self, backend):
        for pool in (nn.MaxPool2d(9), nn.AvgPool2d(9)):
            net = small(backend, model=nn.Sequential(pool)).eval()
            with pytest.raises(ValueError, match="0: expected images of at least 9 x 9 pixels"):
                net(quantized.QTensor(STEPS, -5))
            with pytest.raises(ValueError, match=r"0: expected input of shape \(N, C, H, W\)"):
                net(quantized.QTensor(STEPS[:, :, 0, 0], -5))


class TestTensors:
    @pytest.mark.parametrize("values", [torch.zeros(2), torch.zeros(2, dtype=torch.bool), [1]])
    def test_values_that_are_no_integers(self, values):
        with pytest.raises(TypeError, match="expected values of a signed integer type, got"):
            quantized.QTensor(values, -5)

    @pytest.mark.parametrize("exponent", [-5.5, -5.0, None, True, torch.tensor(-5)])
    def test_exponents_that_are_no_integers(self, exponent):
        with pytest.raises(TypeError, match="expected an integer exponent, got"):
            quantized.QTensor(STEPS, exponent)
        with pytest.raises(TypeError, match="expected an integer exponent, got"):
            quantized.quantize(STEPS.float(), exponent)

    @pytest.mark.parametrize("values", [STEPS, [0.5]])
    def test_quantize_rounds_floating_point_tensors_only(self, values):
        with pytest.raises(TypeError, match="expected a floating-point tensor, got"):
            quantized.quantize(values, -5)


class TestLoss:
    @pytest.mark.parametrize("smoothing", [-0.5, 1.5, math.nan])
    def test_smoothing_out_of_range(self, smoothing):
        net, logits = small(), quantized.QTensor(torch.zeros(2, 4, dtype=torch.int32), -8)
        with pytest.raises(ValueError, match=r"expected a smoothing in \[0, 1\], got"):
            quantized.cross_entropy(net, logits, torch.tensor([0, 1]), smoothing)

    def test_logits_and_labels_of_other_types(self):
        net, labels = small(), torch.tensor([0, 1])
        with pytest.raises(TypeError, match=r"expected logits as a QTensor .*, got Tensor"):
            quantized.cross_entropy(net, torch.zeros(2, 4), labels)
        with pytest.raises(TypeError, match=r"expected logits as a QTensor .*, got torch\.int8"):
            quantized.cross_entropy(net, quantized.QTensor(STEPS[:, :, 0, 0], -5), labels)
        logits = quantized.QTensor(torch.zeros(2, 4, dtype=torch.int32), -8)
        with pytest.raises(TypeError, match=r"expected labels as a tensor .*, got list"):
            quantized.cross_entropy(net, logits, [0, 1])
        empty = quantized.QTensor(logits.values[:0], -8)
        with pytest.raises(ValueError, match="expected 1 to 65536 rows"):
            quantized.cross_entropy(net, empty, labels[:0])

    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
    def test_the_value_follows_the_smoothing(self, smoothing):
        real = torch.randn(32, 10, generator=torch.Generator().manual_seed(0)) * 3
        logits = quantized.QTensor((real * 2**12).round().int(), -12)
        labels = torch.arange(32) % 10
        found = quantized.cross_entropy(small(), logits, labels, smoothing).value
        want = nn.functional.cross_entropy(logits.real(), labels, label_smoothing=smoothing)
        assert found == pytest.approx(float(want), rel=2e-3, abs=2e-3)

    @pytest.mark.parametrize("exponent", [0, 20, 40, 90])
    def test_large_exponents_do_not_wrap(self, exponent):
        values = torch.tensor([[2**30, 0, -(2**30)]], dtype=torch.int32)
        p = judge.softmax(values.numpy(), exponent)
        assert p.tolist() == [[1 << judge.PROBABILITY_BITS, 0, 0]]
        logits = quantized.QTensor(values, exponent)
        net = small(config=quantized.Config(stochastic=False))
        error = quantized.cross_entropy(net, logits, torch.tensor([1])).error
        assert error.values.tolist() == [[64, -64, 0]]


class TestRates:
    def test_a_rate_that_rounds_to_nothing_is_said(self):
        with pytest.warns(UserWarning, match="lr 7e-06 rounds to 0 in 16 fraction bits"):
            quantized.SGD(small(), lr=7e-6)

    def test_the_end_of_a_schedule_is_no_news(self, images, labels):
        net = small()
        optimizer = quantized.SGD(net, lr=0.1)
        for rate in (0.1, 7e-6, 0.0):
            optimizer.lr = rate
            net.backward(quantized.cross_entropy(net, net(images), labels).error)
            optimizer.step()

    def test_factors_that_make_a_rate_nothing(self, images, labels):
        net = small()
        optimizer = quantized.SGD(net, lr=0.1)
        net.set_rates(1e-6)
        net.backward(quantized.cross_entropy(net, net(images), labels).error)
        with pytest.warns(UserWarning, match=r"0\.1 times 1e-06 rounds to 0"):
            optimizer.step()


class TestStates:
    @pytest.mark.parametrize(
        "other",
        [{"norm": "l2"}, {"sigma": "pow2"}, {"residual_fraction": 2}, {"master_bits": 12}],
        ids=str,
    )
    def test_a_state_of_another_configuration(self, other):
        net, source = small(), small(config=quantized.Config(**other))
        before = tensors(net)
        ((name, value),) = other.items()
        with pytest.raises(
            ValueError, match=f"expected a state of {name}=.*, got one of .*{value}"
        ):
            net.load_state_dict(source.state_dict())
        assert same(before, net)

    def test_another_seed_goes_on(self):
        source = small(config=quantized.Config(seed=3, error_bits=6))
        net = small()
        net.load_state_dict(source.state_dict())
        assert same(tensors(source), net)

    def test_foreign_entries_change_nothing(self):
        net = small()
        before, state = tensors(net), dict(net.state_dict())
        key = "layers.0.weight.weight"
        for value in (state[key].float(), state[key][:1], 3):
            with pytest.raises(ValueError, match=rf"{key}: expected torch\.int16 of shape"):
                net.load_state_dict(state | {key: value})
        with pytest.raises(RuntimeError, match=r"got 1 missing \(layers"):
            net.load_state_dict({k: v for k, v in state.items() if k != key})
        with pytest.raises(ValueError, match="expected a step number"):
            net.load_state_dict(state | {"_extra_state": {"step": "7"}})
        assert same(before, net)
