"""The faulty convolution is met by no recipe, and found where it is."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from judge import assert_close
from l1bn import strided_conv
from l1bn.recipes.models import MODELS, ModelSpec, build_model
from l1bn.strided_conv import SubsampledConv2d, is_affected, to_channels_last_, trial

x86_only = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN's kernels for x86"
)

TRAIN = """
import torch
from l1bn.recipes.classification.trainer import Trainer
from l1bn.recipes.config import TrainConfig
from l1bn.recipes.data import ImageSet, Split

split = Split(torch.randint(0, 255, (16, 3, 96, 96), dtype=torch.uint8), torch.arange(16) % 3)
config = TrainConfig(width=0.25, threads=1, batch_size=16, tensorboard=False, progress=False)
trainer = Trainer(config, ImageSet("noise", split, split, tuple("abc")))
for _ in range(4):
    loss, _ = trainer.step(split.images, split.labels)
assert loss.isfinite()
print("trained")
"""


@x86_only
@pytest.mark.parametrize("most", ["AVX2", "DEFAULT"])
def test_a_narrow_network_trains_in_channels_last(most: str) -> None:
    """As `l1bn train --width 0.25` does; with the plain layer this dies of a damaged heap."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": most}
    run = subprocess.run(
        [sys.executable, "-c", TRAIN], env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout == "trained\n"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("width", [0.125, 1.0])
def test_no_model_of_the_zoo_keeps_an_affected_layer(name: str, width: float) -> None:
    plain = build_model(name, "l1", ModelSpec(3, 32, 10, width))
    keys, weights = list(plain.state_dict()), list(plain.parameters())
    model = to_channels_last_(plain)
    left = [m for m in model.modules() if type(m) is nn.Conv2d and is_affected(m)]
    assert left == []
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), weights, strict=True))
    replaced = [m for m in model.modules() if isinstance(m, SubsampledConv2d)]
    narrow = width < 1 and name.startswith("resnet") and name != "resnet50"
    assert bool(replaced) == narrow


@pytest.mark.parametrize("stride", [2, 3, (2, 1), (1, 2)])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_subsampled_layer_is_the_same_function(
    stride: int | tuple[int, int], size: tuple[int, int], bias: bool
) -> None:
    plain = nn.Conv2d(5, 6, 1, stride, bias=bias, dtype=torch.float64)
    x = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    expected = plain(x)
    gradient = torch.randn_like(expected)
    want = torch.autograd.grad(expected, [x, *plain.parameters()], gradient)
    layer = to_channels_last_(plain)
    assert isinstance(layer, SubsampledConv2d)
    layout = torch.channels_last
    x2 = x.detach().contiguous(memory_format=layout).requires_grad_()
    y = layer(x2)
    got = torch.autograd.grad(y, [x2, *layer.parameters()], gradient)
    assert_close(y, expected, "double")
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, "double")
    assert y.is_contiguous(memory_format=layout)
    assert got[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("layer", "affected"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), True),
        (nn.Conv2d(15, 8, 1, stride=(1, 2)), True),
        (nn.Conv2d(4, 8, 1, stride=2, padding="valid"), True),
        (nn.Conv2d(16, 8, 1, stride=2), False),
        (nn.Conv2d(4, 8, 1), False),
        (nn.Conv2d(4, 8, 3, stride=2), False),
        (nn.Conv2d(4, 8, 1, stride=2, padding=1), False),
        (nn.Conv2d(4, 8, 1, stride=2, groups=2), False),
    ],
)
def test_which_layers_are_affected(layer: nn.Conv2d, affected: bool) -> None:
    assert is_affected(layer) == affected
    model = to_channels_last_(nn.Sequential(layer))
    assert (type(model[0]) is SubsampledConv2d) == affected  # type: ignore[index]


@x86_only
def test_the_trial_finds_the_fault_and_its_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")  # no such kernel
    assert trial() is None
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    if torch.__version__.startswith("2.13") and torch.backends.mkldnn.is_available():
        assert trial() is not None


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("while True: pass", "no end within 3 s"),
        ("import os; os.abort()", "the process died of SIGABRT"),
        ("raise SystemExit(1)", "the gradient is wrong"),
        ("raise SystemExit(7)", "the trial ended with code 7"),
        ("", None),
    ],
)
def test_the_trial_says_how_its_process_ended(
    code: str, found: str | None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "trial.py"
    script.write_text(code)
    monkeypatch.setattr(strided_conv, "__file__", str(script))
    assert trial(seconds=3) == found
