"""Looks into a network in training: saturation, exponents and dead channels of every layer."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import nn

from l1bn.quantized.layers import IntegerLayer, ProductLayer, ProductNormLayer
from l1bn.quantized.network import IntegerNetwork
from l1bn.quantized.parameter import IntegerParameter
from l1bn.quantized.tensor import QTensor

_HIGH = 127
Row = dict[str, Any]


class ScalarWriter(Protocol):
    """What takes numbers by name: ``torch.utils.tensorboard.SummaryWriter`` does."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int) -> None:
        """Note a number."""


class Watch:
    """Notes what the formats do to a network, layer by layer, while the ``with`` block lasts.

    Only a batch after which ``record`` is called is looked at, so that others cost nothing but the
    tensors they hold. Networks compute the same with it and without.

    Args:
        network: The network.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from l1bn import quantized
        >>> network = quantized.prepare(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
        >>> x = quantized.quantize(torch.randn(4, 8), exponent=-5)
        >>> with quantized.Watch(network) as watch:
        ...     loss = quantized.cross_entropy(network, network(x), torch.tensor([0, 1, 0, 1]))
        ...     network.backward(loss.error)
        ...     rows = watch.record(step=0)  # before the optimizer's step
        >>> [row["layer"] for row in rows]
        ['0', '1', '2']
    """

    FIELDS = (
        "step",
        "layer",
        "kind",
        "exponent",
        "saturated",
        "zero",
        "channels",
        "dead_channels",
        "weight_exponent",
        "momentum_exponent",
        "gradient_exponent",
        "gradient_saturated",
        "gradient_zero",
    )

    def __init__(self, network: IntegerNetwork) -> None:
        self.network = network
        self.rows: list[Row] = []
        self._outputs: dict[int, QTensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Watch:
        """Start to look."""
        for index, layer in enumerate(self.network.layers):
            self._hooks.append(layer.register_forward_hook(self._keep(index)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Look no more, and let the tensors go."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._outputs = [], {}

    def _keep(self, index: int) -> Callable[[nn.Module, Any, QTensor], None]:
        def keep(layer: nn.Module, inputs: Any, output: QTensor) -> None:
            del layer, inputs
            self._outputs[index] = output

        return keep

    def record(self, step: int) -> list[Row]:
        """Note the last batch, between ``backward`` and the optimizer's step.

        Args:
            step: Its number.

        Returns:
            A row for each layer. ``saturated`` and ``zero`` are shares of the outputs at the end of
            8 bits, and at 0; those of a gradient are at the end of ``error_bits``, and 0 where
            several passes add up. A channel is dead where every output of the batch is 0. The
            exponents are powers of two; fields of weights are empty where a layer has none.

        Raises:
            RuntimeError: If no batch was seen.
        """
        if not self._outputs:
            raise RuntimeError(
                "expected a batch to record, got none; run the network within the with block"
            )
        rows = []
        for index, output in self._outputs.items():
            layer = self.network.layers[index]
            assert isinstance(layer, IntegerLayer)
            rows.append(_row(layer, output) | {"step": step})
        self._outputs = {}
        self.rows += rows
        return rows

    def to_csv(self, path: str | Path) -> Path:
        """Write all rows."""
        with Path(path).open("w", newline="") as file:
            writer = csv.DictWriter(file, self.FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)
        return Path(path)

    def to_tensorboard(self, writer: ScalarWriter) -> None:
        """Give every number of all rows to a ``SummaryWriter``, as ``layer/field``."""
        for row in self.rows:
            for field in self.FIELDS[3:]:
                if row[field] != "":
                    writer.add_scalar(f"{row['layer']}/{field}", row[field], row["step"])


def _row(layer: IntegerLayer, output: QTensor) -> Row:
    values = output.values
    narrow = values.dtype == torch.int8
    dead = values.transpose(0, 1).flatten(1).eq(0).all(1)
    row: Row = dict.fromkeys(Watch.FIELDS, "")
    row |= {
        "layer": layer.name,
        "kind": type(layer).__name__,
        "exponent": output.exponent,
        "saturated": _share(values.abs().ge(_HIGH) | values.eq(-_HIGH - 1)) if narrow else 0.0,
        "zero": _share(values.eq(0)),
        "channels": len(dead),
        "dead_channels": int(dead.sum()),
    }
    if isinstance(layer, (ProductLayer, ProductNormLayer)):
        row |= _weights(layer.weight, layer.product.config.error_bits)
    return row


def _weights(weight: IntegerParameter, error_bits: int) -> Row:
    row: Row = {
        "weight_exponent": weight.narrow().exponent,
        "momentum_exponent": weight.momentum_exponent,
    }
    gradient = weight.gradient
    if gradient is not None:
        # A sum over several passes is wider, and has no end.
        narrow = gradient.values.dtype == torch.int8
        end = gradient.values.abs().ge((1 << error_bits - 1) - 1)
        row |= {
            "gradient_exponent": gradient.exponent,
            "gradient_saturated": _share(end) if narrow else 0.0,
            "gradient_zero": _share(gradient.values.eq(0)),
        }
    return row


def _share(where: torch.Tensor) -> float:
    return int(where.sum()) / max(where.numel(), 1)
