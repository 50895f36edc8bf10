"""The descriptions of activations, against PyTorch's own functions and their autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd import gradcheck

from judge import assert_close
from l1bn import activation as act
from l1bn.activation import DESCRIPTIONS, Activation

EVERY: list[Activation] = [
    *DESCRIPTIONS,
    *[(row.name, 0.3) for row in DESCRIPTIONS.values() if row.parameter is not None],
    ("leaky_relu", -0.5),
    ("elu", -1.0),
]


@pytest.mark.parametrize("name", EVERY, ids=str)
class TestEach:
    def test_the_slope_is_pytorchs(self, name: Activation) -> None:
        kinks = torch.tensor(act.split(name)[0].kinks, dtype=torch.float64)
        z = torch.cat([torch.linspace(-9, 9, 2001, dtype=torch.float64), kinks]).requires_grad_()
        (want,) = torch.autograd.grad(act.activate(z, name).sum(), z)
        # Of Hardsigmoid PyTorch has 1/6 in single precision, for float64 too.
        assert_close(act.slope(z, name), want, "single" if name == "hardsigmoid" else "double")
        some = z.detach()[::97].clone().requires_grad_()
        assert gradcheck(lambda z: act.slope(z, name), some)

    def test_over_its_input_it_is_the_same(self, name: Activation) -> None:
        z = torch.linspace(-9, 9, 1999)
        want, had = act.activate(z, name), z.clone()
        assert_close(act.activate_over(z, name), want, "exact")
        over = act.split(name)[0].over is not None
        assert_close(z, want if over else had, "exact")

    def test_the_output_tells_the_rest(self, name: Activation) -> None:
        z = torch.linspace(-9, 9, 1999, dtype=torch.float64)
        y, slope = act.activate(z, name), act.slope(z, name)
        g = torch.randn_like(z)
        if not act.keeps_output(name):
            with pytest.raises(ValueError, match="expected an activation that can be read off"):
                act.passed(g, y, name)
            with pytest.raises(ValueError, match="expected an activation that can be read off"):
                act.inverse(y, name)
            return
        assert_close(act.passed(g, y, name), g * slope, "double")
        assert_close(act.inverse(y, name)[slope != 0], z[slope != 0], "double sums")
        assert act.inverse(act.activate(torch.tensor(-1e4), name), name).isfinite()


def test_what_an_output_tells() -> None:
    assert {row for row in DESCRIPTIONS if act.keeps_output(row)} == {
        "relu", "relu6", "leaky_relu", "elu",
    }  # fmt: skip
    assert {row for row in DESCRIPTIONS if act.clips(row)} == {"relu", "relu6"}
    assert act.keeps_output(("leaky_relu", 0.2))
    assert not act.keeps_output(("leaky_relu", -0.2))
    assert not act.keeps_output(None)


@pytest.mark.parametrize("name", ["swoosh", ("silu", 0.1), 3, ("elu",), ("nope", 0.1)])
def test_what_is_no_activation(name: Activation) -> None:
    with pytest.raises(ValueError, match="expected activation"):
        act.split(name)


@pytest.mark.parametrize(
    "wrong", ["cos", ("relu", None), ("leaky_relu", "0.2"), ("leaky_relu",), ("silu", 1.0), 3]
)
def test_what_is_no_activation_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected activation"):
        act.split(wrong)
