"""Folding norms into convolutions: the same outputs, and nothing that something else sees."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import l1bn
from block_grammar import Writer, load
from judge import assert_close
from l1bn import fold_

BLOCK_INPUT = torch.randn(
    4, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
)
IMAGE = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(0))
LAYERS: list[tuple[type[nn.Module], type[nn.Module], tuple[int, ...]]] = [
    (nn.Conv1d, l1bn.L1BatchNorm1d, (2, 4, 9)),
    (nn.Conv2d, l1bn.L1BatchNorm2d, (2, 4, 9, 8)),
    (nn.Conv3d, l1bn.L1BatchNorm3d, (2, 4, 5, 4, 6)),
    (nn.ConvTranspose1d, nn.BatchNorm1d, (2, 4, 9)),
    (nn.ConvTranspose2d, l1bn.L1BatchNorm2d, (2, 4, 9, 8)),
    (nn.ConvTranspose3d, l1bn.L1BatchNorm3d, (2, 4, 5, 4, 6)),
]


def trained(model: nn.Module) -> Any:
    """Statistics and parameters as after training, in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.running_mean, -1, 1), (module.running_var, 0.2, 3),
                (module.weight, -2, 2), (module.bias, -1, 1),
            ):  # fmt: skip
                if tensor is not None:
                    nn.init.uniform_(tensor, low, high)
    return model.eval()


def outputs(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def folded(model: Any, x: Tensor = IMAGE) -> Any:
    """Fold, and compare the outputs. Returns the report."""
    want = outputs(model, x)
    report = fold_(model, x)
    assert_close(outputs(model, x), want, "single sums")
    return report


class Block(nn.Module):
    """A convolution and a norm around the code under test."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = l1bn.L1BatchNorm2d(4)
        self.other = nn.BatchNorm2d(4)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


@pytest.mark.parametrize(
    ("conv", "norm", "shape", "groups", "bias"),
    [(*row, *more) for row, more in product(LAYERS, product((1, 2), (False, True)))],
)
def test_every_convolution(
    conv: Any, norm: Any, shape: tuple[int, ...], groups: int, bias: bool
) -> None:
    model = trained(nn.Sequential(conv(4, 6, 3, groups=groups, bias=bias), norm(6), nn.ReLU()))
    report = folded(model, torch.randn(shape))
    assert [item.path for item in report.converted] == ["1"]
    assert type(model[1]) is nn.Identity


@pytest.mark.parametrize("affine", [False, True])
def test_linear_layers(affine: bool) -> None:
    model = trained(nn.Sequential(nn.Linear(4, 5), l1bn.L1BatchNorm1d(5, affine=affine)))
    assert len(folded(model, torch.randn(7, 4)).converted) == 1


def test_a_linear_layer_over_rows_is_left() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 5), l1bn.L1BatchNorm1d(5)))
    report = folded(model, torch.randn(3, 5, 4))
    assert not report.converted
    assert "no matrix" in report.left[0].text


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_computed_in_double_and_rounded_once(dtype: torch.dtype) -> None:
    model = trained(nn.Sequential(nn.Conv2d(4, 6, 3), l1bn.L1BatchNorm2d(6)))
    model[0].to(dtype)
    before, norm = copy.deepcopy(model[0]), model[1]
    if dtype == torch.float64:
        norm.double()
    x = torch.randn(2, 4, 5, 5).to(dtype)
    if dtype in (torch.bfloat16, torch.float16):
        model[0].register_parameter("bias", None)
        before.register_parameter("bias", None)
    fold_(model, x)
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = 0 if before.bias is None else before.bias.double()
    wants = {
        "weight": before.weight.double() * scale.view(-1, 1, 1, 1),
        "bias": norm.bias.double() + scale * (bias - norm.running_mean.double()),
    }
    for name, want in wants.items():
        got = getattr(model[0], name)
        assert got.dtype == dtype
        assert_close(got.detach(), want.detach().to(dtype), "exact" if dtype.itemsize < 8 else
                     "double sums")  # fmt: skip


def test_activations_stay() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3), l1bn.L1BatchNormAct2d(6, act_layer="silu"),
        nn.Conv2d(6, 6, 3), l1bn.L1BatchNormAct2d(6, drop_layer=nn.Dropout),
    )  # fmt: skip
    assert len(folded(trained(model)).converted) == 2
    assert type(model[1]) is nn.SiLU
    assert [type(part) for part in model[3].children()] == [nn.Dropout, nn.ReLU]


SEEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "added": lambda m, x: m.bn(c := m.conv(x)) + c,
    "by two norms": lambda m, x: m.bn(c := m.conv(x)) * m.other(c),
    "by a condition": lambda m, x: m.bn(c) if (c := m.conv(x)).mean() < 10 else m.bn(c) * 2,
    "its maximum": lambda m, x: m.bn(c := m.conv(x)) + c.clamp(-1, 1),
    "counted": lambda m, x: m.bn(c := m.conv(x)) + (c > 0).sum(),
    "edited": lambda m, x: m.bn(m.conv(x).mul_(2)),
    "between": lambda m, x: m.bn(m.conv(x).relu()),
    "a part of it": lambda m, x: m.bn(m.conv(x)[:, :, 1:]),
    "twice": lambda m, x: m.bn(m.conv(m.bn(m.conv(x)) + m.conv(x))),
    "not before": lambda m, x: m.conv(m.bn(x)),
    "of two": lambda m, x: m.bn(m.conv(x)) + m.bn(x),
    "its own input": lambda m, x: m.bn(m.bn(m.conv(x))),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEN)
def test_what_something_else_sees_is_left(name: str) -> None:
    model = trained(Block(SEEN[name]))
    report = folded(model)
    assert not report.converted
    assert "bn" in [item.path for item in report.left]
    assert all(item.text for item in report.left)


FREE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "plain": lambda m, x: m.bn(m.conv(x)),
    "repeated": lambda m, x: m.bn(m.conv(m.bn(m.conv(x)).relu())),
    "its shape": lambda m, x: m.bn(c := m.conv(x)).view(c.shape) * c.numel() * len(c),
    "its input too": lambda m, x: F.relu(m.bn(m.conv(x)) + x),
    "in place after": lambda m, x: m.bn(m.conv(x)).add_(x).relu_(),
}


@pytest.mark.parametrize("name", FREE)
def test_what_only_the_norm_sees_is_folded(name: str) -> None:
    report = folded(trained(Block(FREE[name])))
    assert [item.path for item in report.converted] == ["bn"]
    assert [item.path for item in report.left] == ["other"]  # the example does not reach it


@pytest.mark.parametrize("index", range(4))
def test_generated_blocks(index: int, tmp_path: Path) -> None:
    """What people write: the function stays, whatever is folded."""
    counts = [0, 0]
    for seed in range(50 * index, 50 * index + 50):
        text = Writer(seed).write()
        torch.default_generator.manual_seed(seed)
        block = load(tmp_path, seed, text)().double()
        l1bn.convert_(trained(block))
        block.eval()
        want = _evaluated(block)
        if want is None:
            continue
        try:
            report = fold_(block, BLOCK_INPUT)
        except ValueError as error:
            raise AssertionError(f"{text}\n{error}") from error
        got = _evaluated(block)
        assert got is not None, text
        assert_close(got, want, "double sums", equal_nan=True)
        counts[0] += len(report.converted)
        counts[1] += len(report.left)
    assert min(counts) > 50, counts


def _evaluated(block: Any) -> Tensor | None:
    """The output of a block, None where it does not run."""
    block = copy.deepcopy(block)
    torch.default_generator.manual_seed(3)
    try:
        with torch.no_grad():
            return block(BLOCK_INPUT * 1)
    except (RuntimeError, NameError, AttributeError, TypeError):
        return None


def test_some_of_many_are_left() -> None:
    """Halves are tried apart: what one pair gives away does not keep the others."""

    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(7))
            self.norms = nn.ModuleList(l1bn.L1BatchNorm2d(4) for _ in range(7))

        def forward(self, x: Tensor) -> Tensor:
            for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
                c = conv(x)
                x = norm(c).relu() + (c if i in (1, 6) else 0)
            return x

    report = folded(trained(Many()))
    assert [item.path for item in report.converted] == [f"norms.{i}" for i in (0, 2, 3, 4, 5)]
    assert [item.path for item in report.left] == ["norms.1", "norms.6"]


def test_a_model_without_tensors_among_its_outputs_is_refused() -> None:
    class Hidden:
        def __init__(self, value: Tensor) -> None:
            self.value = value

    class Wraps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 4, 3), l1bn.L1BatchNorm2d(4)

        def forward(self, x: Tensor) -> Hidden:
            return Hidden(self.bn(c := self.conv(x)) + c)

    model = trained(Wraps())
    with pytest.raises(ValueError, match="expected a model that returns tensors"):
        fold_(model, IMAGE)
    assert type(model.bn) is l1bn.L1BatchNorm2d


def test_shared_layers_and_every_path_to_them() -> None:
    part = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), l1bn.L1BatchNorm2d(4))
    model = trained(nn.Sequential(part, nn.ReLU(), part))
    assert len(folded(model).converted) == 1
    assert not any(isinstance(m, l1bn.L1BatchNorm2d) for m in model.modules())


def test_tied_weights_stay_the_others_own() -> None:
    first, second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    second.weight = first.weight
    model = trained(nn.Sequential(first, l1bn.L1BatchNorm2d(4), second))
    assert len(folded(model).converted) == 1


def test_what_is_no_plain_layer_is_left_and_named() -> None:
    models = {
        "parametrization": nn.Sequential(
            parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), l1bn.L1BatchNorm2d(4)
        ),
        "statistics of the batch": nn.Sequential(
            nn.Conv2d(4, 4, 3), l1bn.L1BatchNorm2d(4, track_running_stats=False)
        ),
        "hooks": nn.Sequential(nn.Conv2d(4, 4, 3), l1bn.L1BatchNorm2d(4)),
    }
    models["hooks"][0].register_forward_hook(lambda *_: None)
    for why, model in models.items():
        report = fold_(trained(model), IMAGE)
        assert not report.converted, why
        assert why in report.left[0].text


def test_a_residual_given_to_the_norm() -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), l1bn.L1BatchNormAct2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.conv(x), residual=x)

    report = folded(trained(Adds()))
    assert "more than its input" in report.left[0].text


def test_errors_leave_the_model_as_it_was() -> None:
    model = trained(nn.Sequential(nn.Conv2d(4, 6, 3), l1bn.L1BatchNorm2d(6)))
    before = copy.deepcopy(model.state_dict())
    for example, words in ((torch.zeros(2, 3, 9, 9), "raised RuntimeError"), (None, "raised")):
        with pytest.raises(ValueError, match=words):
            fold_(model, example)
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        fold_(model.train(), IMAGE)
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got int"):
        fold_(3, IMAGE)
    model.eval()
    model.append(nn.Dropout(0.5).eval())
    calls = iter(range(100))
    model[2].forward = lambda x: x + next(calls)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="compute the same"):
        fold_(model, IMAGE)
    assert type(model[1]) is l1bn.L1BatchNorm2d
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_converted_network_of_another_library() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2],
                                       groups_width=8, num_labels=3)  # fmt: skip
    model = transformers.RegNetForImageClassification(config)
    l1bn.convert_(model)
    trained(model)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = model(x).logits
        report = fold_(model, {"pixel_values": x})
        assert_close(model(x).logits, want, "cancelling")
    assert not report.left
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
