"""The 8-bit convolutions of a ResNet-20 step, against float32 and against torch's int8 product.

    python -m benchmarks.integers.conv [--threads 1 2] [--rounds 20] [--isas avx2] [--busy]

Writes ``results/int8_conv.csv`` with its environment, and prints the sums over the network. All
variants compute in channels_last memory on batches of 128 CIFAR images:

* ``l1bn ISA``: the kernels of csrc/, exact int32 results and the largest magnitude per channel
* ``float32``: torch's convolution and its two gradients
* ``int_mm``: the windows copied side by side, then ``torch._int_mm``

On a machine that does other work, --busy takes the processor time of single-threaded runs instead
of wall time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import clock_for, interleave, quartiles, refuse_on_red, seconds, write
from l1bn.ops.int8 import conv as int8_conv

BATCH = 128
OPERATIONS = ("forward", "input_gradient", "weight_gradient")
Calls = tuple[Callable[[], Any], Callable[[], Any], Callable[[], Any]]


@dataclass(frozen=True)
class Layer:
    """A convolution of square images, and how often the network has it."""

    channels: int
    size: int
    outputs: int
    kernel: int
    stride: int
    count: int

    @property
    def padding(self) -> int:
        """Such that stride 1 keeps the size."""
        return self.kernel // 2

    @property
    def output_size(self) -> int:
        """Rows, and columns, of the result."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def products(self) -> int:
        """Multiplications of one operation on a batch."""
        pixels = BATCH * self.output_size**2
        return pixels * self.channels * self.outputs * self.kernel**2

    def __str__(self) -> str:
        return (
            f"{self.channels}->{self.outputs} @{self.size} "
            f"{self.kernel}x{self.kernel} stride {self.stride}"
        )


#: ResNet-20 with 1 x 1 convolutions as shortcuts.
LAYERS = [
    Layer(3, 32, 16, 3, 1, 1),
    Layer(16, 32, 16, 3, 1, 6),
    Layer(16, 32, 32, 3, 2, 1),
    Layer(16, 32, 32, 1, 2, 1),
    Layer(32, 16, 32, 3, 1, 5),
    Layer(32, 16, 64, 3, 2, 1),
    Layer(32, 16, 64, 1, 2, 1),
    Layer(64, 8, 64, 3, 1, 5),
]
#: Of other networks: a quarter-width ResNet-18 or VGG7, and a linear layer.
MORE = [
    Layer(64, 32, 64, 3, 1, 0),
    Layer(128, 8, 128, 3, 1, 0),
    Layer(2048, 1, 256, 1, 1, 0),
]


def integers(*shape: int) -> Tensor:
    values = torch.randint(-128, 128, shape, dtype=torch.int8)
    return values.contiguous(memory_format=torch.channels_last)


def l1bn_calls(layer: Layer, x: Tensor, w: Tensor, e: Tensor, isa: str) -> Calls:
    sides = (layer.size, layer.size), (layer.kernel, layer.kernel)
    step = {"stride": layer.stride, "padding": layer.padding}

    def on_isa(call: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        def run() -> Any:
            int8_conv.select(isa)
            return call(*args, **step)

        return run

    return (
        on_isa(int8_conv.conv2d, x, w),
        on_isa(int8_conv.conv2d_input_gradient, e, w, sides[0]),
        on_isa(int8_conv.conv2d_weight_gradient, x, e, sides[1]),
    )


def float32_calls(layer: Layer, x: Tensor, w: Tensor, e: Tensor) -> Calls:
    x, w, e = x.float(), w.float(), e.float()
    stride, padding = [layer.stride] * 2, [layer.padding] * 2

    def gradient(mask: list[bool]) -> Any:
        return torch.ops.aten.convolution_backward(
            e, x, w, None, stride, padding, [1, 1], False, [0, 0], 1, mask
        )

    return (
        lambda: F.conv2d(x, w, None, stride, padding),
        lambda: gradient([True, False, False]),
        lambda: gradient([False, True, False]),
    )


def windows(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Every window of x as a row: (pixels, kernel * kernel * channels)."""
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    x = x.unfold(1, kernel, stride).unfold(2, kernel, stride)
    return x.permute(0, 1, 2, 4, 5, 3).flatten(0, 2).flatten(1)


def dilate(e: Tensor, stride: int, size: int, kernel: int, padding: int) -> Tensor:
    """The error with zeros between its pixels, so that the input gradient has stride 1."""
    if stride == 1:
        return e
    side = size + 2 * padding - kernel + 1
    out = e.new_zeros(e.shape[0], side, side, e.shape[1]).permute(0, 3, 1, 2)
    out[:, :, ::stride, ::stride] = e
    return out


def int_mm_calls(layer: Layer, x: Tensor, w: Tensor, e: Tensor) -> Calls:
    kernel, stride, padding = layer.kernel, layer.stride, layer.padding

    def forward() -> Tensor:
        taps = w.permute(2, 3, 1, 0).flatten(0, 2)
        return torch._int_mm(windows(x, kernel, stride, padding), taps)

    def input_gradient() -> Tensor:
        error = dilate(e, stride, layer.size, kernel, padding)
        taps = w.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
        return torch._int_mm(windows(error, kernel, 1, kernel - 1 - padding), taps)

    def weight_gradient() -> Tensor:
        error = e.permute(1, 0, 2, 3).flatten(1)
        return torch._int_mm(error, windows(x, kernel, stride, padding))

    return forward, input_gradient, weight_gradient


def agree(layer: Layer, ours: Calls, theirs: Calls) -> None:
    """Refuse to time two different computations."""
    (y, _), (dx, _), dw = (call() for call in ours)
    other_y, other_dx, other_dw = (call() for call in theirs)
    for name, found, wanted in (
        ("forward", y.permute(0, 2, 3, 1).reshape(other_y.shape), other_y),
        ("input gradient", dx.permute(0, 2, 3, 1).reshape(other_dx.shape), other_dx),
        ("weight gradient", dw.permute(0, 2, 3, 1).reshape(other_dw.shape), other_dw),
    ):
        if not torch.equal(found, wanted):
            raise SystemExit(f"{layer}: the {name} of l1bn and of torch._int_mm differ")


def measure(
    layer: Layer, threads: int, isas: list[str], rounds: int, busy: bool
) -> Iterator[dict[str, Any]]:
    torch.set_num_threads(threads)
    clock = clock_for(threads, busy)
    x = integers(BATCH, layer.channels, layer.size, layer.size)
    w = integers(layer.outputs, layer.channels, layer.kernel, layer.kernel)
    e = integers(BATCH, layer.outputs, layer.output_size, layer.output_size)
    calls = {f"l1bn {isa}": l1bn_calls(layer, x, w, e, isa) for isa in isas}
    calls["float32"] = float32_calls(layer, x, w, e)
    calls["int_mm"] = int_mm_calls(layer, x, w, e)
    agree(layer, calls[f"l1bn {isas[0]}"], calls["int_mm"])

    def timed(variant: Calls) -> Callable[[], list[float]]:
        return lambda: [seconds(call, clock) for call in variant]

    times = interleave({name: timed(variant) for name, variant in calls.items()}, rounds)
    for name, samples in times.items():
        for i, operation in enumerate(OPERATIONS):
            low, middle, high = quartiles([sample[i] for sample in samples])
            yield {
                "threads": threads,
                "layer": str(layer),
                "count": layer.count,
                "operation": operation,
                "variant": name,
                "median_ms": f"{middle * 1e3:.4f}",
                "low_ms": f"{low * 1e3:.4f}",
                "high_ms": f"{high * 1e3:.4f}",
                "products_per_ns": f"{layer.products / middle / 1e9:.1f}",
            }


def summarize(rows: list[dict[str, Any]]) -> None:
    """Sums over the network; its first layer needs no input gradient."""
    first = str(LAYERS[0])
    for threads in sorted({row["threads"] for row in rows}):
        sums: dict[str, dict[str, float]] = {}
        for row in rows:
            skipped = row["layer"] == first and row["operation"] == "input_gradient"
            if row["threads"] == threads and not skipped:
                parts = sums.setdefault(row["variant"], dict.fromkeys(OPERATIONS, 0.0))
                parts[row["operation"]] += row["count"] * float(row["median_ms"])
        print(f"\nResNet-20's convolutions, batch {BATCH}, {threads} thread(s) [ms]")
        for name, parts in sums.items():
            listed = "  ".join(f"{op} {parts[op]:7.1f}" for op in OPERATIONS)
            print(f"  {name:16} {listed}  all {sum(parts.values()):7.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--isas", nargs="+", default=[int8_conv.isa()], choices=int8_conv.isas())
    parser.add_argument("--busy", action="store_true")
    args = parser.parse_args()
    refuse_on_red("tests/ops/int8/test_conv.py")
    rows = []
    for threads in args.threads:
        for layer in LAYERS + MORE:
            print(f"{layer}, {threads} thread(s)", flush=True)
            rows += measure(layer, threads, args.isas, args.rounds, args.busy)
    summarize(rows)
    print(f"\n{write('int8_conv', rows)}")


if __name__ == "__main__":
    main()
