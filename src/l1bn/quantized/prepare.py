"""Turns a float network into one that trains in integers."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor, nn

from l1bn.fixed_point.norm.spec import NormSpec
from l1bn.nn import L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d, L1SyncBatchNorm
from l1bn.quantized.config import Config
from l1bn.quantized.kernels.selection import check_backend
from l1bn.quantized.layers import (
    AddLayer,
    AveragePoolLayer,
    Clock,
    FlattenLayer,
    IdentityLayer,
    IntegerLayer,
    MaxPoolLayer,
    NormLayer,
    ProductLayer,
    ProductNormLayer,
    ReluLayer,
)
from l1bn.quantized.network import IntegerNetwork, Node
from l1bn.quantized.norms.baselines import L2Rule, RangeRule
from l1bn.quantized.norms.buffers import NormBuffers
from l1bn.quantized.norms.l1 import L1Rule
from l1bn.quantized.norms.rule import NormRule
from l1bn.quantized.parameter import IntegerParameter, fitting_exponent
from l1bn.quantized.reading.additions import refuse_additions
from l1bn.quantized.reading.trace import Step, UnsupportedError, trace

_L1 = (L1BatchNorm1d, L1BatchNorm2d, L1BatchNorm3d, L1SyncBatchNorm)
_FIRST_SITE = 2
_LARGEST_WINDOW = 11  # places in a window are kept in 8 bits
_BIAS_RANGE_BITS = 4  # a master of a bias holds ±8 at least


def prepare(
    model: nn.Module, config: Config | None = None, backend: str = "auto"
) -> IntegerNetwork:
    """Build the integer form of a float network, with its weights and running statistics.

    Convolutions and linear layers, L1BN (with its residual and ReLU), ReLU, additions, max pooling,
    global average pooling and flattening have an integer form. The float network stays as it is.

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
    builder = _Builder(config or Config(), backend, freezing=model.training)
    return builder.build(trace(model))


class _Builder:
    """Makes layers of steps; a product and the norm after it are one."""

    def __init__(self, config: Config, backend: str, freezing: bool) -> None:
        self.config = config
        self.freezing = freezing  # whether a norm in evaluation mode asks for frozen statistics
        self.clock = Clock(config, backend=backend)
        self.layers: list[IntegerLayer] = []
        self.nodes: list[Node] = []
        self.place: dict[int, int] = {}  # id of a step -> index of the node with its output

    def build(self, steps: list[Step]) -> IntegerNetwork:
        if not steps:
            raise UnsupportedError("expected a network with layers, got none")
        merged = _merged_products(steps)
        for step in steps:
            if id(step) in merged.values():
                continue  # comes with the norm that follows it
            product = next((s for s in steps if merged.get(id(step)) == id(s)), None)
            self._add(step, product, last=step is steps[-1])
        return IntegerNetwork(self.layers, self.nodes, self.clock)

    def _add(self, step: Step, product: Step | None, last: bool) -> None:
        inputs = list(step.inputs)
        if product is not None:
            inputs[0] = product.inputs[0]
        sources = [-1 if s is None else self.place[id(s)] for s in inputs]
        if _is_norm(step.module) and self.config.norm == "none":
            self.place[id(step)] = self._without_norm(step, product, sources)
        else:
            self.place[id(step)] = self._append(self._layer(step, product, last), sources)

    def _append(self, layer: IntegerLayer, sources: list[int]) -> int:
        self.layers.append(layer)
        self.nodes.append(Node(len(self.layers) - 1, tuple(sources)))
        return len(self.nodes) - 1

    def _at(self, step: Step) -> tuple[str, int, Clock]:
        return step.name, _FIRST_SITE + len(self.layers), self.clock

    def _without_norm(self, step: Step, product: Step | None, sources: list[int]) -> int:
        """What is left of a normalization layer without its norm: residual and ReLU."""
        place = sources[0]
        if product is not None:
            layer = ProductLayer(*self._at(product), **_product(product, self.config))
            place = self._append(layer, [place])
        if len(sources) > 1:
            place = self._append(self._add_layer(step), [place, sources[1]])
        if _ends_in_relu(step):
            place = self._append(ReluLayer(*self._at(step)), [place])
        return place

    def _layer(self, step: Step, product: Step | None, last: bool) -> IntegerLayer:
        at = self._at(step)
        module = step.module
        if _is_norm(module):
            return self._norm(at, step, product)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            return ProductLayer(*at, **_product(step, self.config), wide=last)
        if step.kind == "relu" or type(module) is nn.ReLU:
            return ReluLayer(*at)
        if step.kind == "add":
            return self._add_layer(step)
        if step.kind == "flatten" or _flattens(module):
            return FlattenLayer(*at)
        if isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and module.p == 0):
            return IdentityLayer(*at)
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            return AveragePoolLayer(*at)
        if isinstance(module, nn.AvgPool2d):
            return AveragePoolLayer(*at, _average_window(step.name, module))
        if isinstance(module, nn.MaxPool2d):
            return MaxPoolLayer(*at, *_window(step.name, module))
        raise UnsupportedError(_no_form(step))

    def _norm(self, at: tuple[str, int, Clock], step: Step, product: Step | None) -> IntegerLayer:
        module = step.module
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        relu = _ends_in_relu(step)
        if self.config.norm == "l1" and not isinstance(module, _L1):
            raise UnsupportedError(
                f"{step.name}: expected L1BN, got {type(module).__name__}; convert the network "
                'with l1bn.convert_(model), or choose Config(norm="l2")'
            )
        buffers = NormBuffers(step.name, module, self.config.master_bits)
        rule = self._rule(residual=len(step.inputs) > 1)
        layer: NormLayer | ProductNormLayer
        if product is None:
            layer = NormLayer(*at, buffers, rule, relu)
        else:
            options = _product(product, self.config)
            layer = ProductNormLayer(*at, buffers, rule, relu, product=product.name, **options)
        if self.freezing and not module.training:
            layer.freeze()
        return layer

    def _add_layer(self, step: Step) -> AddLayer:
        return AddLayer(*self._at(step), self.config.residual_fraction)

    def _rule(self, residual: bool) -> NormRule:
        rules: dict[str, type[L1Rule]] = {"l1": L1Rule, "l2": L2Rule, "range": RangeRule}
        fraction = self.config.residual_fraction if residual else None
        spec = NormSpec(width=8, sigma=self.config.sigma, y_fraction=fraction)
        return rules[self.config.norm](spec, self.config.per_channel)


def _flattens(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)


def _is_norm(module: nn.Module | None) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _is_product(module: nn.Module | None) -> bool:
    return isinstance(module, (nn.Conv2d, nn.Linear))


def _merged_products(steps: list[Step]) -> dict[int, int]:
    """Map each norm to the product it alone follows, by the ids of the steps."""
    merged = {}
    for step in steps:
        source = step.inputs[0] if step.inputs else None
        alone = source is not None and source.users == [step] and _is_product(source.module)
        if _is_norm(step.module) and alone:
            merged[id(step)] = id(source)
    return merged


def _ends_in_relu(step: Step) -> bool:
    act = getattr(step.module, "act", None)
    if act is None or isinstance(act, nn.Identity):
        return False
    if type(act) is not nn.ReLU:
        raise UnsupportedError(
            f"{step.name}: expected the activation ReLU or none, got {type(act).__name__}; integer "
            "training has no other: build the network with act_layer=torch.nn.ReLU"
        )
    if not isinstance(getattr(step.module, "drop", nn.Identity()), nn.Identity):
        raise UnsupportedError(f"{step.name}: expected no drop_layer, got one; remove it")
    return True


class _Geometry(TypedDict):
    linear: bool
    stride: int
    padding: int


class _Product(_Geometry):
    """What a product layer takes by name."""

    weight: IntegerParameter
    bias: IntegerParameter | None


def _product(step: Step, config: Config) -> _Product:
    module = step.module
    assert isinstance(module, (nn.Conv2d, nn.Linear))
    bits = config.master_bits
    weight: Tensor = module.weight
    geometry = _Geometry(linear=True, stride=1, padding=0)
    if isinstance(module, nn.Conv2d):
        geometry = _conv_geometry(step.name, module)
    else:
        weight = nn.Parameter(weight.detach()[:, :, None, None], module.weight.requires_grad)
    bias = None
    if module.bias is not None:
        exponent = max(_BIAS_RANGE_BITS - bits, fitting_exponent(module.bias, bits))
        bias = IntegerParameter(module.bias, bits, exponent, name=f"{step.name}.bias")
    master = IntegerParameter(weight, bits, decays=True, name=f"{step.name}.weight")
    return _Product(weight=master, bias=bias, **geometry)


def _conv_geometry(name: str, conv: nn.Conv2d) -> _Geometry:
    expected = {
        "groups": (conv.groups, 1),
        "dilation": (conv.dilation, (1, 1)),
        "padding_mode": (conv.padding_mode, "zeros"),
        "stride": (conv.stride, (conv.stride[0],) * 2),
        "padding": (conv.padding, (conv.padding[0],) * 2),
    }
    for option, (got, needed) in expected.items():
        if got != needed:
            raise UnsupportedError(
                f"{name}: expected a convolution with {option} {needed}, got {got}; integer "
                "training has no other: replace the layer"
            )
    padding = conv.padding[0]
    assert isinstance(padding, int)
    return _Geometry(linear=False, stride=conv.stride[0], padding=padding)


def _window(name: str, pool: nn.MaxPool2d) -> tuple[int, int, int]:
    kernel, stride, padding = (_square(v) for v in (pool.kernel_size, pool.stride, pool.padding))
    plain = pool.dilation in (1, (1, 1)) and not pool.ceil_mode and not pool.return_indices
    if kernel is None or stride is None or padding is None or not plain or kernel > _LARGEST_WINDOW:
        raise UnsupportedError(
            f"{name}: expected a square max pooling of at most {_LARGEST_WINDOW} pixels, without "
            f"dilation, ceil_mode or indices, got {pool}"
        )
    return kernel, stride, padding


def _average_window(name: str, pool: nn.AvgPool2d) -> int:
    kernel, stride, padding = (_square(v) for v in (pool.kernel_size, pool.stride, pool.padding))
    plain = padding == 0 and not pool.ceil_mode and pool.divisor_override is None
    if kernel is None or stride != kernel or not plain:
        raise UnsupportedError(
            f"{name}: expected an average pooling of square windows that touch and do not overlap, "
            f"without padding, got {pool}"
        )
    return kernel


def _square(size: int | tuple[int, ...]) -> int | None:
    """One number for both directions, or None where they differ."""
    if isinstance(size, int):
        return size
    return size[0] if len(set(size)) == 1 else None


def _no_form(step: Step) -> str:
    title = repr(step.module) if step.module is not None else step.kind
    return (
        f"{step.name}: expected a layer with an integer form (Conv2d, Linear, L1BN, ReLU, "
        f"MaxPool2d, AvgPool2d, AdaptiveAvgPool2d(1), Flatten, addition), got {title}; "
        "replace or remove it"
    )
