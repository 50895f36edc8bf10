"""Reports are data and print well."""

from __future__ import annotations

import torch
from torch import nn

from l1bn import calibrate_, convert_, revert_
from l1bn.model.report import ConversionReport, Item, group
from zoo import SmallResNet


def test_a_conversion_prints_counts_and_reasons() -> None:
    model = nn.Sequential(SmallResNet(), nn.LazyBatchNorm1d())
    assert str(convert_(model, fuse=False)) == (
        "convert_: Sequential\n"
        "  8 converted\n"
        "      8 × BatchNorm2d → L1BatchNorm2d\n"
        "  1 left as they are\n"
        "      1 × LazyBatchNorm1d: has no parameters yet: run the model once, then convert\n"
        "          1\n"
        "  note: parameters and buffers are the same objects: optimizers built before stay valid"
    )


def test_a_fusion_prints_what_was_fused_and_what_was_not() -> None:
    model = SmallResNet()
    model.stem[2] = nn.Softplus()
    assert str(convert_(model, example=torch.randn(2, 3, 8, 8))) == (
        "convert_: SmallResNet\n"
        "  8 converted\n"
        "      8 × BatchNorm2d → L1BatchNorm2d\n"
        "  6 fused\n"
        "      3 × L1BatchNorm2d → ReLU\n"
        "      3 × L1BatchNorm2d → add → ReLU\n"
        "  2 not fused\n"
        "      1 × no activation that a layer computes follows, but Softplus\n"
        "          stem.1\n"
        "      1 × computed by itself: something is between, or nobody keeps what is added\n"
        "          layer1.0.bn2\n"
        "  note: a step on the example keeps 0.04 MB for backward, 0.06 MB without fusion\n"
        "  note: parameters and buffers are the same objects: optimizers built before stay valid"
    )
    assert str(revert_(model)) == (
        "revert_: SmallResNet\n"
        "  8 converted\n"
        "      8 × L1BatchNorm2d → BatchNorm2d\n"
        "  7 un-fused\n"
        "      4 × L1BatchNorm2d → add → ReLU\n"
        "      3 × L1BatchNorm2d → ReLU"
    )


def test_without_an_example_it_says_what_is_seen_in_the_source() -> None:
    model = SmallResNet()
    model.stem[2] = nn.Softplus()
    assert len(convert_(model).fused) == 7


def test_what_the_example_does_not_reach_is_named() -> None:
    class Never(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.other, self.act = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.bn(x)) if x.shape[1] == 3 else self.act(self.other(x))

    report = convert_(Never(), example=torch.randn(4, 3, 2, 2))
    assert [item.path for item in report.fused] == ["bn"]
    assert [str(item) for item in report.not_fused] == ["other: the example does not reach it"]


def test_a_model_without_layers_says_so() -> None:
    assert str(convert_(nn.Linear(2, 2))) == "convert_: Linear\n  0 converted"


def test_many_paths_are_shortened() -> None:
    items = [Item(f"layer{i}", "why") for i in range(5)]
    assert group(items, with_paths=True) == [
        "      5 × why",
        "          layer0, layer1, layer2 and 2 more",
    ]


def test_the_commonest_comes_first() -> None:
    report = ConversionReport("convert_", "Net")
    report.left = [Item("a", "rare"), Item("b", "common"), Item("", "common")]
    assert str(report).splitlines()[2:] == [
        "  3 left as they are",
        "      2 × common",
        "          b, (the model itself)",
        "      1 × rare",
        "          a",
    ]


def test_a_calibration_prints_a_table() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False))
    convert_(model)
    x = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 2, 3, 3)
    assert str(calibrate_(model, [x, x])) == (
        "calibrate_: Sequential\n"
        "  1 calibrated on 2 batches\n"
        "      factor on γ  smallest  median  largest\n"
        "      0               1.253   1.253    1.253\n"
        "  1 left as they are\n"
        "      1 × has no γ to rescale (affine=False)\n"
        "          1"
    )
