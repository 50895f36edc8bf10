"""SGD with momentum and weight decay on 16-bit masters."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from l1bn.fixed_point.update import RATE_BITS, SgdStep
from l1bn.quantized.network import IntegerNetwork

__all__ = ["SGD"]

_FIRST_SITE = 1 << 11


class SGD:
    """The steps of ``torch.optim.SGD``, in integers.

    Weight decay acts on the weights of products, not on biases, γ and β.

    Args:
        network: What to train.
        lr: Learning rate, up to 64; set the attribute to follow a schedule.
        momentum: Momentum.
        weight_decay: Weight decay (L2 penalty).
        nesterov: Nesterov's form of the momentum.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        network: IntegerNetwork,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = True,
    ) -> None:
        self.network = network
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.nesterov = nesterov
        self._moved: set[float] = set()
        self._warn_of_nothing(self._steps())

    def _warn_of_nothing(self, steps: Mapping[tuple[bool, float], SgdStep]) -> None:
        """Say so where a rate rounds to nothing that did not before: that trains nothing.

        The last steps of a schedule may.
        """
        for (_, factor), step in steps.items():
            if factor in self._moved or self.lr * factor == 0:
                continue
            self._moved.add(factor)
            if step.rate == 0:
                rate = f"{self.lr:g}" if factor == 1 else f"{self.lr:g} times {factor:g}"
                warnings.warn(
                    f"lr {rate} rounds to 0 in {RATE_BITS} fraction bits, so that no weight moves; "
                    f"take at least {2.0**-RATE_BITS:.2g}, or 0 to freeze",
                    stacklevel=3,
                )

    def _steps(self) -> dict[tuple[bool, float], SgdStep]:
        """Return the scalars of every kind of parameter, before any of them moves."""
        kinds = {(p.decays, p.rate) for p in self.network.integer_parameters()}
        return {kind: self._quantize(*kind) for kind in kinds}

    def _quantize(self, decays: bool, factor: float = 1.0) -> SgdStep:
        decay = self.weight_decay if decays else 0.0
        return SgdStep.quantize(self.lr * factor, self.momentum, decay, self.nesterov)

    def step(self) -> None:
        """Move every parameter that has a gradient, and forget the gradients.

        The network's step number advances, so that the next step draws other random bits.

        Raises:
            ValueError: If a rate is out of range; nothing has moved then.
        """
        clock = self.network.clock
        steps = self._steps()
        self._warn_of_nothing(steps)
        for index, parameter in enumerate(self.network.integer_parameters()):
            gradient, parameter.gradient = parameter.gradient, None
            if gradient is None or not parameter.trains:
                continue
            site = _FIRST_SITE + index
            first, second = clock.noise(site, 0), clock.noise(site, 1)
            exponent = clock.kernels(parameter.weight).sgd_step(
                parameter.weight,
                parameter.exponent,
                parameter.momentum,
                parameter.momentum_exponent,
                gradient.values,
                gradient.exponent,
                steps[parameter.decays, parameter.rate],
                parameter.bits,
                None if first is None or second is None else (first, second),
            )
            parameter.moved(exponent)
            parameter.make_room()
        clock.step += 1
