"""Training in integers: every tensor of a step holds integers, normalization included."""

from l1bn.quantized.config import Config
from l1bn.quantized.export import export
from l1bn.quantized.loss import Loss, cross_entropy
from l1bn.quantized.network import IntegerNetwork
from l1bn.quantized.optimizer import SGD
from l1bn.quantized.prepare import prepare
from l1bn.quantized.tensor import QTensor, quantize

__all__ = [
    "SGD",
    "Config",
    "IntegerNetwork",
    "Loss",
    "QTensor",
    "cross_entropy",
    "export",
    "prepare",
    "quantize",
]
