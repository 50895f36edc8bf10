"""The registry of backends, and the choice of one for a call.

A backend is an object with the methods of ``Backend``. Backends of this package are loaded
on first use; others join by ``Registry.register``.
"""

from __future__ import annotations

import importlib
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.autograd.graph import Node

from l1bn.activation import Activation, split
from l1bn.ops.records import Branch, Call, Running
from l1bn.ops.tracing import is_compiled, is_transformed


@runtime_checkable
class Backend(Protocol):
    """What a backend offers.

    ``Registry.resolve`` asks once whether a tracer or a transform looks on, and then takes
    ``eager``. A backend need not ask again; one with ``compiles`` is also called while
    ``torch.compile`` looks on. An attribute ``activations`` names the activations that it computes,
    of ``l1bn.activation``; without it these are ReLU and ReLU6. Any other is applied to its output.
    """

    name: str

    def unavailable(self) -> str | None:
        """Why the backend cannot run on this machine, or ``None`` where it can."""

    def unsupported(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
    ) -> str | None:
        """Why the backend cannot take these tensors, or ``None`` where it can."""

    def train(
        self, x: Tensor, residual: Tensor | None, call: Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize with batch statistics.

        Without an activation the output must not be saved for backward: an in-place activation
        after the layer is common and has to work. With one, a node that saves the output says so
        in an attribute ``keeps_output``: nobody can then edit it in place, and whoever takes it
        for a residual may save it too.

        Returns:
            ``(y, mean, scale)``: the output, differentiable in x, residual, γ and β, and the batch
            statistics, not differentiable, in float32 (float64 for a float64 input).

        Shape:
            - x, residual, y: ``(N, C, *)``
            - mean, scale: ``(C,)``
        """

    def evaluate(self, x: Tensor, residual: Tensor | None, call: Call, running: Running) -> Tensor:
        """Normalize with running statistics, exactly as ``F.batch_norm`` does."""

    def train_and_update(
        self, x: Tensor, residual: Tensor | None, call: Call, running: Running
    ) -> Tensor:
        """Call ``train`` and move the running statistics as ``l1bn.ops.running`` does."""


@runtime_checkable
class PairBackend(Protocol):
    """What a backend may offer beside: two normalized branches added and activated in one call."""

    def train_pair(
        self,
        first: Branch,
        second: Branch,
        activation: Activation,
    ) -> Tensor | None:
        """Compute ``act(norm(first) + norm(second))``, or return None where it cannot.

        Args:
            first: one branch, in training.
            second: the other one.
            activation: one that clips, as ``l1bn.activation`` has it: ReLU or ReLU6.
        """


@runtime_checkable
class QuickBackend(Protocol):
    """What a backend may offer beside: a whole call in training, without being asked first."""

    def train_quickly(
        self, call: Branch, residual: Tensor | None, activation: Activation | None
    ) -> Tensor | None:
        """Check, normalize and move the running statistics; or change nothing and return None.

        None wherever something is out of the ordinary: a wrong argument, which the caller then
        names, or a tracer or a transform that looks on. ``torch.compile`` does not get here.
        """


def keeps_its_output(node: Node) -> bool:
    """Whether a node of a backend saves its output; a compiled one says so in its name."""
    found: bool | None = getattr(node, "keeps_output", None)
    return "TrainKeepingOutput" in node.name() if found is None else found


def computes(backend: Backend, activation: Activation | None) -> bool:
    """Whether a backend computes an activation together with the normalization."""
    if activation is None:
        return True
    return split(activation)[0].name in getattr(backend, "activations", ("relu", "relu6"))


class Registry:
    """Backends by name, in order of preference."""

    def __init__(self, modules: dict[str, str]) -> None:
        """Create a registry.

        Args:
            modules: name of a backend to the module that defines it as ``BACKEND``,
                the preferred one first.
        """
        self._modules = dict(modules)
        self._loaded: dict[str, Backend] = {}
        self._quick: dict[str, QuickBackend | None] = {}

    def register(self, backend: Backend) -> None:
        """Add a backend, preferred over those already there.

        Raises:
            TypeError: it lacks a method of ``Backend``.
            ValueError: its name is taken.
        """
        if not isinstance(backend, Backend):
            raise TypeError(
                "expected a backend with name, unavailable, unsupported, train, evaluate and "
                f"train_and_update, got {type(backend).__name__}: see l1bn.ops.registry.Backend"
            )
        if backend.name in self.names():
            raise ValueError(
                f"expected a new backend name, got {backend.name!r}, which is registered: "
                "unregister it first"
            )
        self._loaded[backend.name] = backend
        self._modules = {backend.name: "", **self._modules}
        self._quick.clear()

    def unregister(self, name: str) -> None:
        """Remove a backend."""
        self.get(name)
        self._modules.pop(name)
        self._loaded.pop(name)
        self._quick.clear()

    def names(self) -> list[str]:
        """Names of all backends, available or not, the preferred one first."""
        return list(self._modules)

    def get(self, name: str) -> Backend:
        """Return the backend of that name.

        Raises:
            ValueError: there is none.
        """
        backend = self._loaded.get(name)
        if backend is not None:
            return backend
        if name not in self._modules:
            raise ValueError(
                f"expected backend 'auto' or one of {self.names()}, got {name!r}: "
                "run `l1bn doctor` to see which can run here"
            )
        backend = importlib.import_module(self._modules[name]).BACKEND
        self._loaded[name] = backend
        return backend

    def quick(self, name: str) -> QuickBackend | None:
        """The backend that may do a call without being asked first, or None.

        Args:
            name: a backend's name, or ``"auto"`` for the preferred one.
        """
        if name not in self._quick:
            backend = self.get(next(iter(self._modules)) if name == "auto" else name)
            self._quick[name] = None
            if isinstance(backend, QuickBackend) and not backend.unavailable():
                self._quick[name] = backend
        return self._quick[name]

    def available(self) -> list[str]:
        """Names of the backends that can run on this machine, the preferred one first."""
        return [name for name in self.names() if self.get(name).unavailable() is None]

    def resolve(
        self,
        name: str,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
    ) -> Backend:
        """Choose the backend for a call.

        Args:
            name: a backend's name, or ``"auto"`` for the first that takes the tensors. While
                ``torch.compile`` looks on, that is one with an attribute ``compiles`` that is
                true, if there is one. Other tracers and transforms get ``"eager"``, whatever
                the name: to them a kernel is opaque.
            x: input.
            weight: γ or ``None``.
            bias: β or ``None``.
            residual: residual or ``None``.

        Raises:
            ValueError: the named backend is unknown, cannot run here or cannot take the tensors.
        """
        traced = is_transformed(x)
        if name == "auto":
            return self._first(x, weight, bias, residual, traced)
        backend = self.get(name)
        reason = backend.unavailable() or backend.unsupported(x, weight, bias, residual)
        if reason is not None:
            raise ValueError(
                f"backend {name!r} cannot serve this call: {reason} (input of shape "
                f"{tuple(x.shape)}, {x.dtype}, {x.device}); use backend='auto'"
            )
        if traced and not (is_compiled(x) and getattr(backend, "compiles", False)):
            return self.get("eager")
        return backend

    def _first(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        traced: bool,
    ) -> Backend:
        if traced and not is_compiled(x):
            return self.get("eager")
        for name in self._modules:
            if traced and not getattr(self._loaded.get(name), "compiles", False):
                continue
            backend = self.get(name)
            if not backend.unavailable() and not backend.unsupported(x, weight, bias, residual):
                return backend
        return self.get("eager")


registry = Registry(
    {
        "cpu": "l1bn.ops.cpu.backend",
        "triton": "l1bn.ops.triton.backend",
        "eager": "l1bn.ops.eager.backend",
    }
)
# They serve compilers, which cannot import a module while they trace.
registry.get("cpu")
registry.get("eager")
if torch.version.cuda or torch.version.hip:  # says nothing of a GPU: that question starts CUDA
    registry.get("triton")
