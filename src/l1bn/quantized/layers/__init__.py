"""Layers of an integer network, each with its backward pass."""

from l1bn.quantized.layers.base import Clock, IntegerLayer
from l1bn.quantized.layers.norm import NormLayer, ProductNormLayer
from l1bn.quantized.layers.pooling import AveragePoolLayer, MaxPoolLayer
from l1bn.quantized.layers.product import ProductLayer
from l1bn.quantized.layers.simple import AddLayer, FlattenLayer, IdentityLayer, ReluLayer

__all__ = [
    "AddLayer",
    "AveragePoolLayer",
    "Clock",
    "FlattenLayer",
    "IdentityLayer",
    "IntegerLayer",
    "MaxPoolLayer",
    "NormLayer",
    "ProductLayer",
    "ProductNormLayer",
    "ReluLayer",
]
