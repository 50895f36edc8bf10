"""Turns a float network into one that trains in integers."""

from __future__ import annotations

from torch import nn

from l1bn.fixed_point.norm.spec import NormSpec
from l1bn.quantized.config import Config
from l1bn.quantized.kernels.selection import check_backend
from l1bn.quantized.layers import (
    AddLayer,
    Clock,
    HardswishLayer,
    IntegerLayer,
    JoinLayer,
    NormLayer,
    ProductLayer,
    ProductNormLayer,
    Relu6Layer,
    ReluLayer,
)
from l1bn.quantized.network import IntegerNetwork, Node
from l1bn.quantized.norms.baselines import L2Rule, RangeRule
from l1bn.quantized.norms.buffers import NormBuffers
from l1bn.quantized.norms.l1 import L1Rule
from l1bn.quantized.norms.rule import NormRule
from l1bn.quantized.reading.additions import refuse_additions
from l1bn.quantized.reading.plain import PADS, plain_layer
from l1bn.quantized.reading.products import PRODUCTS, Convolution, Masters, ProductOptions
from l1bn.quantized.reading.spellings import UnsupportedError
from l1bn.quantized.reading.trace import Step, trace
from l1bn.quantized.reading.windows import borders

_FIRST_SITE = 2


def prepare(
    model: nn.Module, config: Config | None = None, backend: str = "auto"
) -> IntegerNetwork:
    """Build the integer form of a float network, with its weights and running statistics.

    Convolutions and linear layers, normalization, ReLU, ReLU6, Hardswish, additions, joined
    channels, poolings, upsampling by copies, padding, dropout and flattening have an integer form,
    as layers or in the spellings of ``torch.nn.functional``. BatchNorm becomes L1BN, whose state is
    the same. A layer that is used twice shares its weights. The float network stays as it is.

    Parameters with ``requires_grad=False`` stay frozen, and so do the statistics of a norm in
    evaluation mode within a network in training mode. Hooks, parametrizations, pruning masks and
    layers whose forward was replaced are refused: the integer network runs no code of theirs.

    Args:
        model: The float network, from one tensor of images to logits.
        config: Formats and rounding; None takes the defaults.
        backend: "auto" takes the compiled kernels where they can run, else "eager".

    Returns:
        The network, in training mode, with weights in the layout of channels-last.

    Raises:
        ValueError: If a layer has no integer form; the message names it and the way out.

    Examples:
        >>> from torch import nn
        >>> import l1bn
        >>> from l1bn import quantized
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3, padding=1, bias=False), l1bn.L1BatchNormAct2d(8),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
        ... )
        >>> network = quantized.prepare(model)
        >>> all(not t.is_floating_point() for t in network.state_dict().values()
        ...     if hasattr(t, "is_floating_point"))
        True
    """
    check_backend(backend)
    refuse_additions(model)
    config = config or Config()
    _check_names(model, config)
    builder = _Builder(config, backend, freezing=model.training)
    return builder.build(trace(model))


def _check_names(model: nn.Module, config: Config) -> None:
    known = {name for name, _ in model.named_modules()}
    for name in config.layers:
        if name not in known:
            raise ValueError(
                f"expected choices for parts of the network, got some for {name!r}; take a name of "
                "model.named_modules()"
            )


class _Builder:
    """Makes layers of steps; a product and the norm after it are one, and so is a ReLU after it."""

    def __init__(self, config: Config, backend: str, freezing: bool) -> None:
        self.config = config
        self.freezing = freezing  # whether a norm in evaluation mode asks for frozen statistics
        self.clock = Clock(config, backend=backend)
        self.layers: list[IntegerLayer] = []
        self.nodes: list[Node] = []
        self.place: dict[int, int] = {}  # id of a step -> index of the node with its output
        self.masters = Masters(config)
        self.buffers: dict[int, NormBuffers] = {}  # by the id of the float layer
        self.products: dict[int, Step] = {}  # id of a norm -> the product before it
        self.relus: dict[int, Step] = {}  # id of a norm -> the ReLU after it
        self.pads: dict[int, Step] = {}  # id of a convolution -> the padding before it

    def build(self, steps: list[Step]) -> IntegerNetwork:
        if not steps:
            raise UnsupportedError("expected a network with layers, got none")
        for step in steps:
            if _is_norm(step.module):
                self._merge(step)
            elif isinstance(step.module, Convolution):
                self._merge_padding(step)
        found = (self.products, self.relus, self.pads)
        merged = {id(s) for steps_of in found for s in steps_of.values()}
        for step in steps:
            if id(step) not in merged:
                self._add(step, last=step is steps[-1])
        return IntegerNetwork(self.layers, self.nodes, self.clock)

    def _merge(self, norm: Step) -> None:
        """Take the product before a norm and the ReLU after it, where nothing else uses them."""
        before, after = norm.inputs[0], norm.users[0] if len(norm.users) == 1 else None
        if before is not None and before.users == [norm] and type(before.module) in PRODUCTS:
            self.products[id(norm)] = before
        if after is not None and type(after.module) is nn.ReLU and _activation(norm) is None:
            self.relus[id(norm)] = after

    def _merge_padding(self, conv: Step) -> None:
        """Take a padding by zeros before a convolution, where nothing else uses it."""
        before = conv.inputs[0]
        if before is None or before.users != [conv] or not isinstance(before.module, PADS):
            return
        if min(borders(before.title, before.module)) >= 0:
            self.pads[id(conv)] = before

    def _source(self, step: Step) -> Step | None:
        """What a layer's first input comes from, beyond what became part of the layer."""
        first = self.products.get(id(step), step)
        return self.pads.get(id(first), first).inputs[0]

    def _add(self, step: Step, last: bool) -> None:
        inputs = [self._source(step), *step.inputs[1:]]
        sources = [-1 if s is None else self.place[id(s)] for s in inputs]
        if not _is_norm(step.module):
            self.place[id(step)] = self._append(self._layer(step, last), sources)
            return
        if self.config.norm == "none":
            place = self._without_norm(step, sources)
        else:
            place = self._append(self._norm(step), sources)
        act = _activation(step)
        if act is not None and type(act) is not nn.ReLU:
            place = self._append(_ACTIVATIONS[type(act)](*self._at(step)), [place])
        self.place[id(step)] = self.place[id(self.relus.get(id(step), step))] = place

    def _append(self, layer: IntegerLayer, sources: list[int]) -> int:
        self.layers.append(layer)
        self.nodes.append(Node(len(self.layers) - 1, tuple(sources)))
        return len(self.nodes) - 1

    def _at(self, step: Step) -> tuple[str, int, Clock]:
        return step.name, _FIRST_SITE + len(self.layers), self.clock

    def _ends_in_relu(self, norm: Step) -> bool:
        return id(norm) in self.relus or type(_activation(norm)) is nn.ReLU

    def _without_norm(self, step: Step, sources: list[int]) -> int:
        """What is left of a normalization layer without its norm: residual and ReLU."""
        place = sources[0]
        product = self.products.get(id(step))
        if product is not None:
            layer = ProductLayer(*self._at(product), **self._product(product))
            place = self._append(layer, [place])
        if len(sources) > 1:
            place = self._append(self._add_layer(step), [place, sources[1]])
        if self._ends_in_relu(step):
            place = self._append(ReluLayer(*self._at(step)), [place])
        return place

    def _product(self, step: Step) -> ProductOptions:
        pad = self.pads.get(id(step))
        if pad is None or pad.module is None:
            return self.masters.product(step)
        left, right, top, bottom = borders(pad.title, pad.module)
        return self.masters.product(step, (top, bottom, left, right))

    def _layer(self, step: Step, last: bool) -> IntegerLayer:
        at, module = self._at(step), step.module
        if step.kind == "add":
            return self._add_layer(step)
        if step.kind == "cat":
            return JoinLayer(*at)
        if type(module) in PRODUCTS:
            return ProductLayer(*at, **self._product(step), wide=last)
        return plain_layer(at, step)

    def _norm(self, step: Step) -> IntegerLayer:
        module, at, config = step.module, self._at(step), self.config.at(step.name)
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        buffers = self.buffers.get(id(module))
        if buffers is None:
            buffers = NormBuffers(step.name, module, config.master_bits, config.momentum)
            self.buffers[id(module)] = buffers
        rule = self._rule(config, residual=len(step.inputs) > 1)
        relu = self._ends_in_relu(step)
        product = self.products.get(id(step))
        layer: NormLayer | ProductNormLayer
        if product is None:
            layer = NormLayer(*at, buffers, rule, relu)
        else:
            options = self._product(product)
            layer = ProductNormLayer(*at, buffers, rule, relu, product=product.name, **options)
        layer.statistics = "running" if config.statistics == "running" else "batch"
        if config.statistics == "frozen" or (self.freezing and not module.training):
            layer.freeze()
        return layer

    def _add_layer(self, step: Step) -> AddLayer:
        return AddLayer(*self._at(step), self.config.at(step.name).residual_fraction)

    def _rule(self, config: Config, residual: bool) -> NormRule:
        rules: dict[str, type[L1Rule]] = {"l1": L1Rule, "l2": L2Rule, "range": RangeRule}
        fraction = config.residual_fraction if residual else None
        spec = NormSpec(width=8, sigma=config.sigma, y_fraction=fraction)
        return rules[config.norm](spec, config.per_channel)


def _is_norm(module: nn.Module | None) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


_ACTIVATIONS: dict[type[nn.Module], type[IntegerLayer]] = {
    nn.ReLU: ReluLayer,
    nn.ReLU6: Relu6Layer,
    nn.Hardswish: HardswishLayer,
}


def _activation(norm: Step) -> nn.Module | None:
    """Return the activation that a normalization layer ends in."""
    act = getattr(norm.module, "act", None)
    if act is None or isinstance(act, nn.Identity):
        return None
    if type(act) not in _ACTIVATIONS:
        raise UnsupportedError(
            f"{norm.title}: expected the activation ReLU, ReLU6, Hardswish or none, got "
            f"{type(act).__name__}; build the network with act_layer=torch.nn.ReLU"
        )
    if not isinstance(getattr(norm.module, "drop", nn.Identity()), nn.Identity):
        raise UnsupportedError(f"{norm.title}: expected no drop_layer, got one; remove it")
    return act
