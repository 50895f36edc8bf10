"""Layers of an integer network, each with its backward pass."""

from l1bn.quantized.layers.activation import HardswishLayer, Relu6Layer
from l1bn.quantized.layers.arrangement import JoinLayer, PadLayer, UpsampleLayer
from l1bn.quantized.layers.base import Clock, IntegerLayer
from l1bn.quantized.layers.dropout import DropoutLayer
from l1bn.quantized.layers.norm import NormLayer, ProductNormLayer
from l1bn.quantized.layers.pooling import (
    AveragePoolLayer,
    MaxPoolLayer,
    OverlappingAveragePoolLayer,
)
from l1bn.quantized.layers.product import ProductLayer
from l1bn.quantized.layers.simple import AddLayer, FlattenLayer, IdentityLayer, ReluLayer
from l1bn.quantized.layers.window import Window

__all__ = [
    "AddLayer",
    "AveragePoolLayer",
    "Clock",
    "DropoutLayer",
    "FlattenLayer",
    "HardswishLayer",
    "IdentityLayer",
    "IntegerLayer",
    "JoinLayer",
    "MaxPoolLayer",
    "NormLayer",
    "OverlappingAveragePoolLayer",
    "PadLayer",
    "ProductLayer",
    "ProductNormLayer",
    "Relu6Layer",
    "ReluLayer",
    "UpsampleLayer",
    "Window",
]
