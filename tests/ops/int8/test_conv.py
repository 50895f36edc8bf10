"""The 8-bit convolutions against sums in NumPy's int64."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from l1bn.ops.int8 import conv as int8_conv
from l1bn.ops.native import library

MISSING = int8_conv.available()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
SOURCES = Path(__file__).parents[3] / "csrc"


@dataclass(frozen=True)
class Case:
    """Sizes of one convolution; the kernel is square."""

    images: int
    channels: int
    size: tuple[int, int]
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def output_size(self) -> tuple[int, int]:
        high, wide = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in self.size)
        return high, wide

    def draw(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Input, weight and error, uniform over all of int8."""
        generator = torch.Generator().manual_seed(seed)

        def integers(*shape: int) -> Tensor:
            return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)

        return (
            integers(self.images, self.channels, *self.size),
            integers(self.outputs, self.channels, self.kernel, self.kernel),
            integers(self.images, self.outputs, *self.output_size()),
        )


# The first ones are large enough for two threads.
CASES = [
    Case(9, 3, (14, 14), 16, 3, 1, 1),
    Case(3, 16, (32, 32), 16, 3, 1, 1),  # an image to a block, and several blocks
    Case(33, 16, (8, 8), 33, 3, 1, 1),  # several images to a block, the last one short
    Case(9, 17, (19, 15), 66, 3, 2, 1),  # odd sizes, 4 + 1 vectors of outputs
    Case(40, 16, (16, 16), 32, 1, 2, 0),  # the shortcut of a ResNet: input pixels without gradient
    Case(520, 64, (1, 1), 34, 1),  # a linear layer
    Case(1, 24, (60, 60), 15, 3, 1, 1),  # an image larger than a block
    Case(1, 16, (2, 1100), 33, 3, 1, 1),  # a row longer than a unit of work
    Case(3, 5, (6, 5), 48, 1),
    Case(130, 64, (1, 1), 10, 1),
    Case(1, 4, (15, 13), 7, 5, 2, 2),
    Case(2, 3, (14, 14), 20, 7, 2, 3),
    Case(2, 2, (5, 5), 3, 3, 4, 0),  # pixels that no window meets
    Case(1, 1, (3, 3), 1, 1, 1, 2),  # more padding than kernel
    Case(2, 3, (4, 4), 2, 1, 5, 3),  # windows that meet padding only
    Case(1030, 20, (1, 1), 30, 1),  # more rows than a unit of work has
    Case(0, 3, (4, 4), 2, 3, 1, 1),
    Case(0, 3, (1, 1), 2, 1),
]


@dataclass(frozen=True)
class Results:
    """What the three operations compute."""

    y: np.ndarray
    y_peak: np.ndarray
    dx: np.ndarray
    dx_peak: np.ndarray
    dw: np.ndarray


def judge(case: Case, x: Tensor, w: Tensor, e: Tensor) -> Results:
    """The definition, tap by tap."""
    xs, ws, es = (t.numpy().astype(np.int64) for t in (x, w, e))
    pad = case.padding
    padded = np.pad(xs, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    y, dpadded, dw = np.zeros(es.shape, np.int64), np.zeros_like(padded), np.zeros_like(ws)
    high, wide = es.shape[2:]
    for i in range(case.kernel):
        for j in range(case.kernel):
            rows = slice(i, i + case.stride * (high - 1) + 1, case.stride)
            cols = slice(j, j + case.stride * (wide - 1) + 1, case.stride)
            met = padded[:, :, rows, cols]
            y += np.einsum("nchw,kc->nkhw", met, ws[:, :, i, j])
            dpadded[:, :, rows, cols] += np.einsum("nkhw,kc->nchw", es, ws[:, :, i, j])
            dw[:, :, i, j] = np.einsum("nkhw,nchw->kc", es, met)
    dx = dpadded[:, :, pad : pad + case.size[0], pad : pad + case.size[1]]
    return Results(y, _peak(y), dx, _peak(dx), dw)


def _peak(values: np.ndarray) -> np.ndarray:
    return np.abs(values).max((0, 2, 3), initial=0)


def compute(case: Case, x: Tensor, w: Tensor, e: Tensor) -> Results:
    step = {"stride": case.stride, "padding": case.padding}
    y, y_peak = int8_conv.conv2d(x, w, **step)
    dx, dx_peak = int8_conv.conv2d_input_gradient(e, w, case.size, **step)
    dw = int8_conv.conv2d_weight_gradient(x, e, (case.kernel, case.kernel), **step)
    for result in (y, dx, dw):
        assert result.dtype == torch.int32
        assert result.is_contiguous(memory_format=torch.channels_last)
    return Results(*(t.numpy() for t in (y, y_peak, dx, dx_peak, dw)))


def assert_equal(case: Case, x: Tensor, w: Tensor, e: Tensor) -> None:
    expected, found = judge(case, x, w, e), compute(case, x, w, e)
    for name in vars(expected):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


@pytest.fixture(params=[] if MISSING else int8_conv.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = int8_conv.isa()
    int8_conv.select(request.param)
    yield request.param
    int8_conv.select(before)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact(case: Case, isa: str, threads: int) -> None:
    assert_equal(case, *case.draw(threads))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_exact_for_any_sizes(isa: str, data: st.DataObject) -> None:
    kernel, padding = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 4))
    side = st.integers(max(1, kernel - 2 * padding), 11)
    case = Case(
        images=data.draw(st.integers(0, 12)),
        channels=data.draw(st.integers(1, 40)),
        size=data.draw(st.tuples(side, side)),
        outputs=data.draw(st.integers(1, 90)),
        kernel=kernel,
        stride=data.draw(st.integers(1, 4)),
        padding=padding,
    )
    assert_equal(case, *case.draw(data.draw(st.integers(0, 99))))


@pytest.mark.parametrize("values", [(-128, -128, -128), (127, -128, 127), (-128, 127, -128)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_exact_at_the_ends_of_the_range(
    values: tuple[int, int, int], kernel: int, isa: str
) -> None:
    case = Case(3, 19, (9, 9), 17, kernel, 1, kernel // 2)
    assert_equal(case, *(t.fill_(v) for t, v in zip(case.draw(0), values, strict=True)))


def test_partial_sums_may_leave_32_bits(isa: str) -> None:
    """As long as the sum itself fits: with shifted inputs it is passed on the way."""
    channels = 2**17 - 1
    case = Case(2, channels, (1, 1), 3, 1)
    x, w, e = case.draw(0)
    y, peak = int8_conv.conv2d(x.fill_(127), w.fill_(-128))
    assert peak.tolist() == [127 * 128 * channels] * 3
    assert (y == -127 * 128 * channels).all()
    case = Case(channels, 1, (1, 1), 2, 1)
    x, _, e = case.draw(0)
    dw = int8_conv.conv2d_weight_gradient(x.fill_(127), e.fill_(-128), (1, 1))
    assert (dw == -127 * 128 * channels).all()


def test_a_planted_error_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[0]
    tensors = case.draw(0)
    assert_equal(case, *tensors)

    def off_by_one(tensor: Tensor) -> Tensor:
        copy = tensor.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
        copy.view(-1)[-1] ^= 1
        return copy

    monkeypatch.setattr(int8_conv, "_nhwc", off_by_one)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_equal(case, *tensors)


@pytest.mark.parametrize("size", [(6, 5), (1, 5), (1, 1)])
@pytest.mark.parametrize("channels", [1, 6])
def test_memory_layouts(size: tuple[int, int], channels: int) -> None:
    """Every layout gives the same, also where sizes of 1 make strides ambiguous."""
    case = Case(3, channels, size, 4, 1)
    x, w, e = case.draw(0)
    expected = compute(case, x, w, e)
    wide = torch.stack([x, x + 1], dim=1)[:, 0]
    for variant in (
        x.contiguous(memory_format=torch.channels_last),
        x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        wide,
    ):
        found = compute(case, variant, w.contiguous(memory_format=torch.channels_last), e)
        for name in vars(expected):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def test_the_c_interface_without_torch() -> None:
    driver = Path(__file__).parents[2] / "native" / "drive_int8_conv.py"
    done = subprocess.run(
        [sys.executable, str(driver), str(library.PATH)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "passed, 0 failed" in done.stdout


def test_select_refuses_what_cannot_run() -> None:
    with pytest.raises(ValueError, match="got 'sse9': this CPU has no other"):
        int8_conv.select("sse9")


def test_says_why_it_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert int8_conv.available() is None
    monkeypatch.setattr(library, "load", lambda path: "not built")
    assert int8_conv.available() == "not built"
    monkeypatch.setattr(library.INT8_CONV, "_functions", None)
    x, w, _ = CASES[0].draw(0)
    with pytest.raises(RuntimeError, match="expected the native library: not built"):
        int8_conv.conv2d(x, w)


def test_refuses_other_tensors() -> None:
    x, w, e = CASES[0].draw(0)
    with pytest.raises(TypeError, match=r"expected x as torch\.int8 on the CPU, got torch\.uint8"):
        int8_conv.conv2d(x.view(torch.uint8), w)
    with pytest.raises(TypeError, match=r"got torch\.int8 on meta"):
        int8_conv.conv2d(x, w.to("meta"))
    with pytest.raises(ValueError, match="expected x with 4 dimensions, got shape"):
        int8_conv.conv2d(x[0], w)
    with pytest.raises(ValueError, match="expected a weight with the input's 3 channels"):
        int8_conv.conv2d(x, w[:, :2])
    with pytest.raises(ValueError, match="expected a kernel within the padded input"):
        int8_conv.conv2d(x[:, :, :2], w)
    with pytest.raises(
        ValueError, match="expected stride >= 1, dilation >= 1 and padding >= 0, got stride "
    ):
        int8_conv.conv2d(x, w, stride=0)
    with pytest.raises(ValueError, match="expected sizes of at least 1"):
        int8_conv.conv2d(x[:, :0], w[:, :0])
    with pytest.raises(ValueError, match=r"expected e in the output's shape \(9, 16, 6, 6\)"):
        int8_conv.conv2d_input_gradient(e, w, (8, 8))
    with pytest.raises(ValueError, match="belongs to another input size, stride or padding"):
        int8_conv.conv2d_weight_gradient(x, e[:, :, :4], (3, 3), padding=1)
