"""From an integer network to the program of a device, its memory planned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from l1bn.device.learning import layer_of
from l1bn.device.program.backward import Backward
from l1bn.device.program.blocks import Blocks
from l1bn.device.program.forward import forward
from l1bn.device.program.lowering import Lowering, Tables
from l1bn.device.program.memory import Placement, place
from l1bn.device.program.refuse import refuse_sharing, refuse_unknown
from l1bn.device.program.state import Layout
from l1bn.device.program.steps import INPUT, Buffer, Flag, Kind, Op, Tensor
from l1bn.fixed_point.update import SgdStep
from l1bn.quantized import IntegerNetwork, QTensor
from l1bn.quantized.layers import IntegerLayer, NormLayer, ProductLayer, ProductNormLayer
from l1bn.quantized.scaling import OutputScale

LARGEST_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a device learns.

    Attributes:
        batch: Images a training step takes, 1 to 32.
        exponent: Exponent of the images, see ``l1bn.quantized.quantize``.
        momentum: Momentum; 0 keeps none, which saves two bytes a weight.
        weight_decay: Weight decay of the weights of products.
        nesterov: Nesterov's form of the momentum.
        smoothing: Label smoothing.
        ram: Bytes that arena, state and exponents may take together; None takes what the fastest
            program needs.

    Raises:
        ValueError: If a number is out of range.
    """

    batch: int = 8
    exponent: int = -5
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = True
    smoothing: float = 0.0
    ram: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= LARGEST_BATCH:
            raise ValueError(f"expected a batch of 1 to {LARGEST_BATCH} images, got {self.batch}")
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"expected a smoothing in [0, 1], got {self.smoothing}")
        self.step()

    def step(self) -> SgdStep:
        """Return the scalars of a step; the rate comes with each call."""
        return SgdStep.quantize(0.0, self.momentum, self.weight_decay, self.nesterov)


@dataclass(frozen=True)
class Build:
    """A network ready to be written for a device.

    Attributes:
        network: The network.
        options: How it learns.
        shape: Channels, height and width of an image.
        tables: What the steps refer to.
        layout: The state.
        frozen: Steps before the first layer that learns, of one image.
        infer: The other steps, of one image.
        train: The other steps, of a batch, forward and backward.
        infer_memory: Where their buffers lie.
        train_memory: Where their buffers lie.
        images: Tensor of the caller's images.
        logits: Tensors of the logits, of inference and training.
        exponents: Exponent of each frozen node's output.
        blocks: What may learn or rest from step to step.
    """

    network: IntegerNetwork
    options: Options
    shape: tuple[int, int, int]
    tables: Tables
    layout: Layout
    frozen: Sequence[Op]
    infer: Sequence[Op]
    train: Sequence[Op]
    infer_memory: Placement
    train_memory: Placement
    images: Tensor
    logits: tuple[Tensor, Tensor]
    exponents: Mapping[int, int]
    blocks: Blocks

    @property
    def classes(self) -> int:
        """Logits of an image."""
        last = layer_of(self.network, len(self.network.nodes) - 1)
        assert isinstance(last, ProductLayer)
        return len(last.weight.weight)

    @property
    def layers(self) -> list[str]:
        """Names of the layers that the steps belong to, in their order."""
        return list(dict.fromkeys(op.layer for op in (*self.frozen, *self.infer, *self.train)))

    @property
    def arena(self) -> int:
        """Bytes of the arena."""
        return max(self.infer_memory.size, self.train_memory.size)

    @property
    def tensors(self) -> int:
        """Tensors of the larger program."""
        return max(len(self.numbered(self.infer)), len(self.numbered(self.train)))

    @property
    def ram(self) -> int:
        """Bytes of arena, state and exponents; the stack comes on top."""
        return self.arena + self.layout.size + 2 * self.tensors

    def numbered(self, ops: Sequence[Op]) -> list[Tensor]:
        """Return the tensors of the frozen steps and of others; the caller's images are first."""
        return _numbered(self.images, [*self.frozen, *ops])


def _numbered(images: Tensor, ops: Sequence[Op]) -> list[Tensor]:
    found = {id(images): images}
    for op in ops:
        found.update({id(t): t for t in op.tensors().values()})
    return list(found.values())


def build(
    network: IntegerNetwork, shape: tuple[int, int, int], options: Options | None = None
) -> Build:
    """Plan a network for a device.

    Which layers learn is what the network says, see ``l1bn.device.choose``.

    Args:
        network: A network of ``l1bn.quantized.prepare``, which ends in a layer that gives logits.
        shape: Channels, height and width of an image.
        options: How it learns; None takes the defaults.

    Raises:
        ValueError: If a layer has no form on a device, a frozen layer has no statistics yet, or the
            memory does not suffice: the message says how much is needed.
    """
    return _Builder(network, shape, options or Options()).build()


class _Builder:
    """Lowers, places, and trades time for memory until the program fits."""

    def __init__(
        self, network: IntegerNetwork, shape: tuple[int, int, int], options: Options
    ) -> None:
        network.mark_needed_gradients()
        self.network, self.shape, self.options = network, shape, options
        self.layers = [layer_of(network, i) for i in range(len(network.nodes))]
        training = [i for i, layer in enumerate(self.layers) if layer.training]
        self.cut = min(training, default=len(self.layers))
        self.learns = any(p.trains for p in network.integer_parameters())
        _check(self.layers, self.cut)
        self.tables = self._tables()
        self.layout = Layout(
            network,
            [n for n in self.tables.norms if n.training],
            self._scales(),
            keep_momentum=options.step().momentum > 0,
        )
        self.tables.scales.update(self.layout.scales)
        self.images = Tensor(None, math.prod(shape))
        self.blocks = Blocks.of(network)

    def _scales(self) -> list[OutputScale]:
        found = (getattr(layer, "scaling", None) for layer in self.layers)
        return [s for s in found if s is not None]

    def _tables(self) -> Tables:
        norms = [n for n in self.layers if isinstance(n, (NormLayer, ProductNormLayer))]
        return Tables(list(self.network.integer_parameters()), norms, {})

    def _lowering(self, images: int, training: bool, values: Mapping[int, Tensor]) -> Lowering:
        batch = torch.Size((self.options.batch, *self.shape))
        self.network.check(batch)
        shapes: list[torch.Size] = []
        for node, layer in zip(self.network.nodes, self.layers, strict=True):
            inputs = [batch if i == INPUT else shapes[i] for i in node.inputs]
            shapes.append(layer.check(*inputs))
        return Lowering(
            self.network,
            self.tables,
            [torch.Size((images, *s[1:])) for s in shapes],
            torch.Size((images, *self.shape)),
            dict(values),
            training,
        )

    def build(self) -> Build:
        count = len(self.layers)
        frozen = self._lowering(1, False, {INPUT: self.images})
        for index in range(self.cut):
            forward(frozen, index)
        infer = self._lowering(1, False, frozen.values)
        train = self._lowering(self.options.batch, True, frozen.values)
        for index in range(self.cut, count):
            forward(infer, index)
            forward(train, index)
        if self.learns:
            backward = Backward(train, self.blocks)
            backward.loss()
            for index in reversed(range(self.cut, count)):
                backward.node(index)
        else:
            train.ops = []
        last = count - 1
        logits = (infer.values[last], train.values[last])
        shared = self._shared(frozen.ops, train.ops)
        results = [t.buffer for t in logits if t.buffer is not None]
        infer_memory = place([*frozen.ops, *infer.ops], {}, results)
        plan = partial(place, [*frozen.ops, *train.ops] if train.ops else [], shared, results)
        inference = infer_memory.size, len(_numbered(self.images, [*frozen.ops, *infer.ops]))
        train_memory = self._fit([*frozen.ops, *train.ops], plan, inference)
        return Build(
            network=self.network,
            options=self.options,
            shape=self.shape,
            tables=self.tables,
            layout=self.layout,
            frozen=frozen.ops,
            infer=infer.ops,
            train=train.ops,
            infer_memory=infer_memory,
            train_memory=train_memory,
            images=self.images,
            logits=logits,
            exponents=self._exponents(),
            blocks=self.blocks,
        )

    def _shared(self, frozen: list[Op], train: list[Op]) -> dict[Buffer, int]:
        """Return what the frozen part leaves to the batch, image by image."""
        written = {id(b) for op in frozen for b in op.buffers()}
        used = {id(b): b for op in train for b in op.buffers() if id(b) in written}
        return dict.fromkeys(used.values(), self.options.batch)

    def _fit(
        self, ops: list[Op], plan: Callable[[], Placement], inference: tuple[int, int]
    ) -> Placement:
        """Place a training step; where it does not fit, compute sums twice and keep none.

        Args:
            ops: Its steps.
            plan: Places them as they are now.
            inference: Bytes and tensors of an inference, which shares the memory.
        """
        memory, limit = plan(), self.options.ram
        if limit is None:
            return memory
        tried = []  # sums that are computed twice may need more beside them than they save
        while True:
            arena = max(memory.size, inference[0])
            tensors = max(len(_numbered(self.images, ops)), inference[1])
            total = arena + self.layout.size + 2 * tensors
            if total <= limit:
                return memory
            tried.append((total, arena))
            op = _largest_sums(ops, memory)
            if op is None:
                raise ValueError(self._refusal(*min(tried)))
            _compute_twice(op)
            memory = plan()

    def _refusal(self, need: int, arena: int) -> str:
        return (
            f"expected to fit {self.options.ram} bytes of RAM, needs {need}: {arena} for "
            f"activations and errors, {self.layout.size} for what learns; take a smaller batch, "
            "let fewer layers learn, or set momentum to 0"
        )

    def _exponents(self) -> dict[int, int]:
        """Run the frozen part on an image of zeros; its exponents depend on no image."""
        zeros = torch.zeros((1, *self.shape), dtype=torch.int8)
        outputs: dict[int, QTensor] = {INPUT: QTensor(zeros, self.options.exponent)}
        for index in range(self.cut):
            inputs = [outputs[i] for i in self.network.nodes[index].inputs]
            outputs[index] = self.layers[index](*inputs)
        return {i: t.exponent for i, t in outputs.items()}


def _check(layers: list[IntegerLayer], cut: int) -> None:
    last = layers[-1]
    if not isinstance(last, ProductLayer) or last.scaling is not None or not last.product.linear:
        raise ValueError(
            f"{last.name}: expected a network that ends in a linear layer, whose sums are the "
            f"logits, got {type(last).__name__}"
        )
    refuse_sharing(layers)
    for layer in layers[cut:]:
        if not layer.training:
            raise ValueError(
                f"{layer.name}: expected layers in evaluation mode to come before all that learn, "
                "got one after them; choose them with l1bn.device.choose"
            )
    for layer in layers[:cut]:
        refuse_unknown(layer)
        modules = [m for m in layer.modules() if getattr(m, "trains", False)]
        if modules:
            raise ValueError(
                f"{layer.name}: expected frozen parameters in evaluation mode, got some that "
                "learn; choose what learns with l1bn.device.choose"
            )


_CAN_TWICE = (Kind.NORM, Kind.PRODUCT_ERROR, Kind.PRODUCT_UPDATE)


def _largest_sums(ops: Sequence[Op], memory: Placement) -> Op | None:
    """Return the step with the most bytes of sums, among those that fill the arena first."""
    able = [o for o in ops if o.kind in _CAN_TWICE and o.sums and not o.flags & Flag.TWICE]
    at = {id(op): i for i, op in enumerate(ops)}
    live = {id(op): memory.live(at[id(op)]) for op in able}
    return max(able, key=lambda op: live[id(op)], default=None)


def _compute_twice(op: Op) -> None:
    """Keep no 32-bit sums of a step, or one pixel's or one output channel's."""
    assert op.sums is not None
    op.flags |= Flag.TWICE
    op.macs *= 2
    w = op.window
    if op.kind is Kind.NORM:
        op.sums = None
    elif op.kind is Kind.PRODUCT_ERROR:
        op.sums = Tensor(Buffer(4 * w.channels))
    else:
        op.scratch = Tensor(Buffer(w.taps * w.out_channels))
        op.sums = Tensor(Buffer(4 * w.taps))
