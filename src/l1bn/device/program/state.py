"""What a device changes while it learns, byte by byte: masters, momentum, statistics, exponents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from l1bn.device.program.memory import aligned
from l1bn.quantized import IntegerNetwork
from l1bn.quantized.layers.norm import NormalizingLayer
from l1bn.quantized.norms.buffers import NormBuffers
from l1bn.quantized.parameter import IntegerParameter
from l1bn.quantized.scaling import OutputScale

STEP_PLACES = 2
"""Numbers that the step number takes, 32 bits each."""
_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Section:
    """An array in the state.

    Attributes:
        offset: Its first byte.
        count: Its numbers.
        dtype: Their type, little-endian.
    """

    offset: int
    count: int
    dtype: str

    @property
    def end(self) -> int:
        """The byte after it."""
        return self.offset + self.count * np.dtype(self.dtype).itemsize


class Layout:
    """Where everything that changes lies in the state.

    Args:
        network: The network, its layers frozen or learning as they will be.
        norms: Those that normalize by statistics of the state, in the order of the layers.
        scales: Exponents of outputs, in the order of the layers.
        keep_momentum: Whether momentum is part of the state.
    """

    def __init__(
        self,
        network: IntegerNetwork,
        norms: list[NormalizingLayer],
        scales: list[OutputScale],
        keep_momentum: bool,
    ) -> None:
        self.network = network
        self.norms = {id(n): n for n in norms}
        self.scales = {id(s): STEP_PLACES + 2 * i for i, s in enumerate(scales)}
        self._scales = scales
        self.learned = [p for p in network.integer_parameters() if p.trains]
        first = STEP_PLACES + 2 * len(scales)
        self.slots = {id(p): first + 2 * i for i, p in enumerate(self.learned)}
        self.size = 0
        self.numbers = self._section(first + 2 * len(self.learned), "<i4")
        self.statistics = {id(n): self._norm(n.norm) for n in norms}
        self.masters = {id(p): self._section(p.weight.numel(), "<i2") for p in self.learned}
        self.momenta = {
            id(p): self._section(p.weight.numel(), "<i2") for p in self.learned if keep_momentum
        }
        self.size = aligned(self.size)

    def _section(self, count: int, dtype: str) -> Section:
        section = Section(aligned(self.size), count, dtype)
        self.size = section.end
        return section

    def _norm(self, buffers: NormBuffers) -> dict[str, Section]:
        channels = buffers.running_mean.numel()
        names = ("running_mean", "running_var", "running_exponent")
        found = {name: self._section(channels, "<i4") for name in names}
        return {**found, "num_batches_tracked": self._section(1, "<i4")}

    def pack(self) -> bytes:
        """Return the state of the network as it is."""
        state = np.zeros(self.size, dtype=np.uint8)
        numbers = np.zeros(self.numbers.count, dtype=np.int64)
        step = self.network.clock.step
        numbers[:STEP_PLACES] = step & _MASK, step >> 32
        for scale in self._scales:
            at = self.scales[id(scale)]
            numbers[at : at + 2] = int(scale.exponent), int(scale.seen)
        for parameter in self.learned:
            at, kept = self.slots[id(parameter)], id(parameter) in self.momenta
            momentum = parameter.momentum_exponent if kept else 0
            numbers[at : at + 2] = parameter.exponent, momentum
        _put(state, self.numbers, numbers)
        for section, tensor in self._arrays():
            _put(state, section, _memory_order(tensor))
        return state.tobytes()

    def unpack(self, data: bytes) -> None:
        """Take over the state of a device: the network continues where the device stopped.

        Args:
            data: The bytes after the header of a slot, see csrc/device/state.c.

        Raises:
            ValueError: If it is not as long as the state of this network.
        """
        if len(data) != self.size:
            raise ValueError(
                f"expected a state of {self.size} bytes, got {len(data)}; it is of another network"
            )
        state = np.frombuffer(data, dtype=np.uint8)
        numbers = _get(state, self.numbers)
        self.network.clock.step = (int(numbers[0]) & _MASK) | (int(numbers[1]) << 32)
        for scale in self._scales:
            at = self.scales[id(scale)]
            scale.exponent.fill_(int(numbers[at]))
            scale.seen.fill_(bool(numbers[at + 1]))
        for parameter in self.learned:
            at = self.slots[id(parameter)]
            parameter.exponent = int(numbers[at])
            parameter.exponents[0] = parameter.exponent
            if id(parameter) in self.momenta:
                parameter.moved(int(numbers[at + 1]))
        for section, tensor in self._arrays():
            _memory_order_copy(tensor, _get(state, section))

    def _arrays(self) -> Iterator[tuple[Section, Tensor]]:
        for key, sections in self.statistics.items():
            buffers = self.norms[key].norm
            for name, section in sections.items():
                yield section, getattr(buffers, name)
        for parameter in self.learned:
            yield self.masters[id(parameter)], parameter.weight
            if id(parameter) in self.momenta:
                yield self.momenta[id(parameter)], parameter.momentum


def memory_order(parameter: IntegerParameter) -> npt.NDArray[np.int64]:
    """Return the masters of a parameter in the order of channels-last memory."""
    return _memory_order(parameter.weight)


def _memory_order(tensor: Tensor) -> npt.NDArray[np.int64]:
    last = tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor
    return last.reshape(-1).cpu().numpy().astype(np.int64)


def _memory_order_copy(tensor: Tensor, values: npt.NDArray[np.int64]) -> None:
    flat = torch.from_numpy(values.copy()).to(tensor.dtype)
    if tensor.dim() == 4:
        k, c, h, w = tensor.shape
        tensor.copy_(flat.view(k, h, w, c).permute(0, 3, 1, 2))
    else:
        tensor.copy_(flat.view(tensor.shape))


def _put(state: npt.NDArray[np.uint8], section: Section, values: npt.NDArray[np.int64]) -> None:
    info = np.iinfo(section.dtype)
    wrapped = np.where(values > info.max, values - (1 << info.bits), values)
    state[section.offset : section.end] = np.frombuffer(
        wrapped.astype(section.dtype).tobytes(), dtype=np.uint8
    )


def _get(state: npt.NDArray[np.uint8], section: Section) -> npt.NDArray[np.int64]:
    part = state[section.offset : section.end].tobytes()
    return np.frombuffer(part, dtype=section.dtype).astype(np.int64)
