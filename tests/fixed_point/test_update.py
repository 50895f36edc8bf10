"""Integer SGD against torch.optim.SGD in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from l1bn.fixed_point import Master, SgdStep, make_room, sgd_step


def run(steps, rate, momentum, decay, nesterov, rounding="stochastic", size=400, bits=16):
    """Weights of both after some steps, in units of the last bit, and the bound on their distance.

    A step errs by a last bit of the weight, and by one of the momentum, which the momentum repeats.
    """
    rng = np.random.default_rng(0)
    exponent = 2 - bits  # weights in ±2
    weight = rng.integers(-(2 ** (bits - 2)), 2 ** (bits - 2), size)
    master = Master(weight, exponent, np.zeros(size, dtype=np.int64), 0, bits)
    parameter = torch.nn.Parameter(torch.from_numpy(weight * 2.0**exponent))
    step = SgdStep.quantize(rate, momentum, decay, nesterov)
    one = 2.0**16
    options = {"lr": step.rate / one, "momentum": step.momentum / one}
    options |= {"weight_decay": step.decay / one**2, "nesterov": nesterov}
    optimizer = torch.optim.SGD([parameter], **options)
    bound = velocity_error = 0.0
    for i in range(steps):
        gradient, g_exponent = rng.integers(-127, 128, size), -9 - i % 3
        master = sgd_step(
            master, gradient, g_exponent, step, rounding=rounding, seed=5, stream=2 * i
        )
        parameter.grad = torch.from_numpy(gradient * 2.0**g_exponent)
        optimizer.step()
        # The decay passes on the error of the weight.
        velocity_error = momentum * velocity_error + decay * bound * 2.0**exponent + 2.0**-30
        bound += 1 + rate * (1 + momentum) * velocity_error / 2.0**exponent
        velocity_error += 2.0**master.momentum_exponent
    return master, parameter.detach().numpy() / 2.0**exponent, bound


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)], ids=str
)
@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
@pytest.mark.parametrize("bits", [16, 12])
def test_follows_torch(momentum, nesterov, rounding, bits):
    master, expected, bound = run(20, 0.1, momentum, 5e-4, nesterov, rounding, bits=bits)
    error = np.abs(master.weight - expected)
    assert error.max() < bound
    # Roundings are independent: they grow as the root of their number, not as the bound.
    assert error.std() < 3 * np.sqrt(20)
    assert np.abs(master.weight - expected).max() > 0


def single(weight, gradient, gradient_exponent, rounding="stochastic", momentum=0, **step):
    size = 20_000
    master = Master(np.full(size, weight), -15, np.full(size, momentum, dtype=np.int64), -16, 16)
    options = {"rate": 1.0, "momentum": 0.0, "nesterov": False} | step
    return sgd_step(
        master,
        np.full(size, gradient),
        gradient_exponent,
        SgdStep.quantize(**options),
        rounding=rounding,
        seed=1,
        stream=6,
    )


def test_steps_below_the_last_bit_count_in_the_mean():
    got = single(1000, 77, -15 - 8).weight  # 77/256 of a last bit
    assert set(np.unique(got)) == {999, 1000}
    assert abs(got.mean() - (1000 - 77 / 256)) < 0.015
    assert (single(1000, 77, -15 - 8, "nearest").weight == 1000).all()


def test_weight_decay_below_the_last_bit_counts_too():
    got = single(10_000, 0, 0, rate=0.1, decay=5e-4).weight
    assert abs(got.mean() - (10_000 - 0.5)) < 0.015


def test_weight_and_momentum_are_rounded_independently():
    master = single(1000, 12_345_677, -32)  # 24 bits: both lose some
    up = [a > a.min() for a in (master.weight, master.momentum)]
    shares = [a.mean() for a in up]
    assert 0.05 < min(shares) < max(shares) < 0.95
    assert abs((up[0] & up[1]).mean() - shares[0] * shares[1]) < 0.015


def test_weights_saturate_symmetrically():
    assert (single(32_000, -127, -4).weight == 2**15 - 1).all()
    assert (single(-32_000, 127, -4).weight == -(2**15) + 1).all()


@pytest.mark.parametrize("exponent", [40, 400, -400])
def test_gradients_beyond_the_units_neither_wrap_nor_fail(exponent):
    master = single(0, 127, exponent)
    if exponent < 0:
        assert not master.weight.any()
        assert not master.momentum.any()
    else:
        assert (master.weight == -(2**15) + 1).all()
        value = master.momentum[0] * 2.0**master.momentum_exponent
        assert value == pytest.approx(256, rel=1e-4)


def test_momentum_takes_all_of_its_bits():
    master, *_ = run(3, 0.1, 0.9, 0.0, True)
    assert 2**14 <= np.abs(master.momentum).max() < 2**15


@pytest.mark.parametrize("wrong", [{"rate": -1}, {"rate": 65}, {"momentum": 1}, {"decay": -0.1}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(ValueError, match=r"expected a rate in \[0, 64\]"):
        SgdStep.quantize(**{"rate": 0.1, **wrong})


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("sign", [1, -1])
def test_weights_near_the_end_of_their_range_get_twice_as_much(bits, sign):
    high = 2 ** (bits - 1) - 1
    small = np.array([0, 1, -1, 7, 3 * high // 4])
    master = Master(sign * small, -9, np.arange(5), -20, bits)
    assert make_room(master) is master
    large = replace(master, weight=sign * np.array([0, 1, -1, 7, 3 * high // 4 + 1]))
    roomy = make_room(large)
    assert roomy.exponent == -8
    assert (np.abs(2 * roomy.weight - large.weight) <= 1).all()
    np.testing.assert_array_equal(roomy.momentum, master.momentum)
    assert roomy.momentum_exponent == master.momentum_exponent
    assert make_room(roomy) is roomy
