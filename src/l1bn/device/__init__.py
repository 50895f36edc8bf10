"""Networks that infer and learn on a processor without floating point, as freestanding C.

What ``l1bn.quantized`` trains in Python, a device trains on: every integer is the same.
"""

from l1bn.device.learning import Learn, choose
from l1bn.device.program.build import Build, Options, build
from l1bn.device.source.folder import write

__all__ = ["Build", "Learn", "Options", "build", "choose", "write"]
