"""A convolution that PyTorch's CPU library computes wrongly, how to avoid it, and a trial of it.

oneDNN's gradient of the weights of a strided 1x1 convolution in channels_last memory writes past
its buffer where the input has fewer channels than a vector holds: fewer than 8 with AVX2, fewer
than 16 with AVX-512 (https://github.com/uxlfoundation/oneDNN/issues/6035; in torch 2.13 and 2.14).
What follows is a crash, a loop without end, or wrong gradients without a word.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

_VECTOR = 16
"""Elements in the widest vector of float32."""
_TRIAL_SECONDS = 60.0
_TOLERANCE = 1e-3


def is_affected(conv: nn.Conv2d) -> bool:
    """Return whether training this layer in channels_last memory on a CPU can meet the fault."""
    return (
        conv.kernel_size == (1, 1)
        and max(conv.stride) > 1
        and conv.padding in ((0, 0), "valid")
        and conv.groups == 1
        and conv.in_channels < _VECTOR
    )


class SubsampledConv2d(nn.Conv2d):
    """A strided 1x1 convolution that first leaves out the pixels it skips: the same function.

    Shape:
        - input: ``(N, C_in, H, W)``
        - output: ``(N, C_out, ceil(H / stride), ceil(W / stride))``
    """

    @classmethod
    def of(cls, conv: nn.Conv2d) -> SubsampledConv2d:
        """Return a layer with the parameters of ``conv``, which ``is_affected``."""
        layer = cls(conv.in_channels, conv.out_channels, 1, bias=False, device="meta")
        layer.stride = conv.stride
        layer.weight, layer.bias = conv.weight, conv.bias
        return layer.train(conv.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of every stride-th pixel."""
        # Windows of one pixel: unlike a slice, backward keeps the memory format.
        kept = F.avg_pool2d(input, 1, self.stride)
        return F.conv2d(kept, self.weight, self.bias)


def to_channels_last_(model: nn.Module) -> nn.Module:
    """Convert a model's weights to channels_last, and keep it from the faulty convolution.

    Args:
        model: Changed in place; parameters stay the same objects, and so do their names.

    Returns:
        The model; the layer in its place if it is that convolution itself.
    """
    for name, module in list(model.named_modules()):
        if type(module) is nn.Conv2d and is_affected(module):
            layer = SubsampledConv2d.of(module)
            if not name:
                model = layer
            else:
                model.set_submodule(name, layer)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def trial(seconds: float = _TRIAL_SECONDS) -> str | None:
    """Try the convolution in a process of its own.

    Args:
        seconds: When to give it up [s].

    Returns:
        None if the gradient is right, or else what happened.
    """
    command = [sys.executable, str(Path(__file__).resolve())]
    try:
        # No core file, should it crash.
        ended = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=seconds
        ).returncode
    except subprocess.TimeoutExpired:
        return f"no end within {seconds:g} s"
    if ended < 0:
        return f"the process died of {signal.Signals(-ended).name}"
    return {0: None, 1: "the gradient is wrong"}.get(ended, f"the trial ended with code {ended}")


def _worst_error() -> float:
    """Return the relative error of the gradient, the largest of several shapes and rounds."""
    errors = []
    # A large image overruns the buffer far enough to crash, a small one spoils the sums.
    for channels, size, images in ((4, 96, 16), (6, 16, 64)):
        conv = nn.Conv2d(channels, 8, 1, stride=2, bias=False)
        x = torch.randn(images, channels, size, size)
        kept = x[:, :, ::2, ::2].double()
        gradient = torch.randn(images, 8, size // 2, size // 2)
        right = torch.einsum("nohw,nihw->oi", gradient.double(), kept)
        conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
        for _ in range(10):
            conv.weight.grad = None
            conv(x).backward(gradient.contiguous(memory_format=torch.channels_last))
            assert conv.weight.grad is not None
            errors.append((conv.weight.grad[:, :, 0, 0] - right).abs().max() / right.abs().max())
    return float(torch.stack(errors).max())


def _no_core_file() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _no_core_file()
    torch.manual_seed(0)
    # Without the interpreter's farewell, which a damaged heap would not survive.
    os._exit(0 if _worst_error() < _TOLERANCE else 1)
