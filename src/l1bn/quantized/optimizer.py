"""SGD with momentum and weight decay on 16-bit masters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from l1bn.fixed_point.update import RATE_BITS, SgdStep
from l1bn.quantized.network import IntegerNetwork
from l1bn.quantized.parameter import IntegerParameter

_OPTIONS = ("lr", "momentum", "weight_decay", "nesterov")


class _Kind(NamedTuple):
    """What decides the scalars of a step: the group, whether weights decay, and their factor."""

    group: int
    decays: bool
    factor: float


class _Option:
    """An option of all groups, read from the first: ``SGD.lr`` and its like."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: SGD | None, owner: type) -> Any:
        return self if optimizer is None else optimizer.param_groups[0][self.name]

    def __set__(self, optimizer: SGD, value: float) -> None:
        for group in optimizer.param_groups:
            group[self.name] = value


class SGD(Optimizer):
    """The steps of ``torch.optim.SGD``, in integers.

    It is a ``torch.optim.Optimizer``: schedulers of torch set ``param_groups[i]["lr"]``, and
    ``state_dict`` holds the options. Momentum lies in the network's buffers, with the weights.
    Weight decay acts on the weights of products, not on biases, γ and β.

    Args:
        network: What to train.
        lr: Learning rate, up to 64; set the attribute to follow a schedule.
        momentum: Momentum.
        weight_decay: Weight decay (L2 penalty).
        nesterov: Nesterov's form of the momentum.
        groups: Parts of the network with options of their own: ``{"params": layers, "lr": 0.01}``,
            ``params`` being layers or parameters of the network. The rest takes the options above,
            as the first group.

    Raises:
        TypeError: If a group holds something else than layers and parameters.
        ValueError: If a number is out of range, or a parameter is of another network or of two
            groups.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from l1bn import quantized
        >>> network = quantized.prepare(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
        >>> head = {"params": [network.layers[-1]], "lr": 0.1}
        >>> optimizer = quantized.SGD(network, lr=0.01, groups=[head])
        >>> schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.01, 0.1]
    """

    lr = _Option()
    momentum = _Option()
    weight_decay = _Option()
    nesterov = _Option()

    def __init__(
        self,
        network: IntegerNetwork,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        *,
        groups: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.network = network
        self._parameters: list[list[IntegerParameter]] = []
        self._said: set[_Kind] = set()
        options = dict(zip(_OPTIONS, (lr, momentum, weight_decay, nesterov), strict=True))
        chosen = [{**g, "params": _parameters(g.get("params", ()))} for g in groups]
        taken = {id(p) for g in chosen for p in g["params"]}
        rest = [p for p in network.integer_parameters() if id(p) not in taken]
        super().__init__([{"params": rest}, *chosen], options)
        self._warn_of_nothing(self._steps())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a part of the network with options of its own, as the constructor takes it.

        Raises:
            TypeError: If it holds something else than layers and parameters.
            ValueError: If a parameter is of another network or has a group already, or an option
                is unknown.
        """
        parameters = _parameters(param_group["params"])
        known = {id(p) for p in self.network.integer_parameters()}
        grouped = {id(p) for group in self._parameters for p in group}
        for parameter in parameters:
            if id(parameter) not in known or id(parameter) in grouped:
                where = "two groups" if id(parameter) in grouped else "another network"
                raise ValueError(f"expected parameters of one group, got one of {where}")
            grouped.add(id(parameter))
        unknown = param_group.keys() - {"params", "initial_lr", *_OPTIONS}
        if unknown:
            raise ValueError(f"expected options among {_OPTIONS}, got {', '.join(sorted(unknown))}")
        self._parameters.append(parameters)
        options = {**self.defaults, **param_group, "params": [p.weight for p in parameters]}
        if parameters:
            super().add_param_group(options)
        else:  # a network whose every parameter has a group of its own
            self.param_groups.append(options)

    def _kinds(self) -> dict[int, _Kind]:
        return {
            id(p): _Kind(index, p.decays, p.rate)
            for index, group in enumerate(self._parameters)
            for p in group
        }

    def _steps(self) -> dict[_Kind, SgdStep]:
        """Return the scalars of every kind of parameter, before any of them moves."""
        return {kind: self._quantize(kind) for kind in set(self._kinds().values())}

    def _quantize(self, kind: _Kind) -> SgdStep:
        group = self.param_groups[kind.group]
        decay = group["weight_decay"] if kind.decays else 0.0
        rate = float(group["lr"]) * kind.factor
        return SgdStep.quantize(rate, group["momentum"], decay, group["nesterov"])

    def _warn_of_nothing(self, steps: Mapping[_Kind, SgdStep]) -> None:
        """Say so where a rate rounds to nothing that did not before: that trains nothing.

        The last steps of a schedule may.
        """
        for kind, step in steps.items():
            lr = float(self.param_groups[kind.group]["lr"])
            if kind in self._said or lr * kind.factor == 0:
                continue
            self._said |= {k for k in steps if (k.group, k.factor) == (kind.group, kind.factor)}
            if step.rate == 0:
                rate = f"{lr:g}" if kind.factor == 1 else f"{lr:g} times {kind.factor:g}"
                warnings.warn(
                    f"lr {rate} rounds to 0 in {RATE_BITS} fraction bits, so that no weight moves; "
                    f"take at least {2.0**-RATE_BITS:.2g}, or 0 to freeze",
                    stacklevel=3,
                )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; they are never zeros that count.

        Args:
            set_to_none: Taken for PyTorch's sake.
        """
        self.network.zero_grad(set_to_none)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient, and forget the gradients.

        The network's step number advances, so that the next step draws other random bits.

        Args:
            closure: Computes loss and gradients first, and returns the loss.

        Returns:
            What the closure returned, or None.

        Raises:
            ValueError: If a rate is out of range; nothing has moved then.
        """
        loss = None if closure is None else closure()
        clock, kinds, steps = self.network.clock, self._kinds(), self._steps()
        self._warn_of_nothing(steps)
        for index, parameter in enumerate(self.network.integer_parameters()):
            gradient, parameter.gradient = parameter.gradient, None
            if gradient is None or not parameter.trains:
                continue
            exponent = clock.kernels(parameter.weight).sgd_step(
                parameter.weight,
                parameter.momentum,
                gradient.values,
                steps[kinds[id(parameter)]],
                exponent=parameter.exponent,
                momentum_exponent=parameter.momentum_exponent,
                gradient_exponent=gradient.exponent,
                bits=parameter.bits,
                noise=clock.update_noise(index),
            )
            parameter.moved(exponent)
            parameter.make_room()
        clock.advance()
        return loss


def _parameters(given: object) -> list[IntegerParameter]:
    """Return the integer parameters of layers and parameters, each once."""
    found: dict[int, IntegerParameter] = {}
    for part in _parts(given):
        if not isinstance(part, nn.Module):
            raise TypeError(
                "expected layers or parameters of an integer network, got "
                f"{type(part).__name__}; give network.layers[i], or one of its IntegerParameters"
            )
        found |= {id(m): m for m in part.modules() if isinstance(m, IntegerParameter)}
    return list(found.values())


def _parts(given: object) -> Iterable[object]:
    if isinstance(given, nn.Module) or not isinstance(given, Iterable):
        return [given]
    return given
