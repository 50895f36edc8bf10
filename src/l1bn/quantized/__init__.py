"""Training in integers: every tensor of a step holds integers, normalization included."""

from l1bn.quantized.config import Config
from l1bn.quantized.loss import Loss, cross_entropy, squared_error
from l1bn.quantized.network import IntegerNetwork
from l1bn.quantized.optimizer import SGD
from l1bn.quantized.prepare import prepare
from l1bn.quantized.split import split
from l1bn.quantized.tensor import QTensor, quantize
from l1bn.quantized.watch import Watch
from l1bn.quantized.writing.export import export
from l1bn.quantized.writing.to_float import to_float

__all__ = [
    "SGD",
    "Config",
    "IntegerNetwork",
    "Loss",
    "QTensor",
    "Watch",
    "cross_entropy",
    "export",
    "prepare",
    "quantize",
    "split",
    "squared_error",
    "to_float",
]
