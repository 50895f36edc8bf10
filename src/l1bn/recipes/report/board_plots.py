"""The plots of a report on a device, as SVG text."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from l1bn.device.trial.plans import Part, Plan
from l1bn.device.trial.report import Row
from l1bn.recipes.report.plots import draw_svg

_BLUE, _ORANGE, _GREEN = "#0072B2", "#D55E00", "#009E73"
_MARKERS = "osD^v"
_KIB = 1024
_BUDGET = 256
"""RAM that Lin et al., arXiv:2206.15472, set as a microcontroller's [KiB]."""


def _height(count: int) -> float:
    return 1.2 + 0.24 * count


def _names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def plot_memory(rows: Sequence[Row]) -> str:
    """Return flash and RAM of each layer."""

    def draw(left: Axes, right: Axes) -> None:
        places = range(len(rows))
        left.barh(places, [r.flash / _KIB for r in rows], color=_BLUE)
        left.set_xlabel("flash [KiB]")
        state = [r.state / _KIB for r in rows]
        right.barh(places, state, color=_ORANGE, label="what learns")
        kept = [r.kept / _KIB for r in rows]
        right.barh(places, kept, left=state, color=_GREEN, label="kept for the backward pass")
        right.set_xlabel("RAM [KiB]")
        right.legend()
        _names(left, [r.layer for r in rows])
        _names(right, [""] * len(rows))

    return draw_svg(9, _height(len(rows)), 2, draw)


def plot_work(rows: Sequence[Row], batch: int) -> str:
    """Return instructions of each layer, or products where no instructions are known."""
    counted = any(r.infer_instructions for r in rows)
    unit = "million instructions" if counted else "million 8-bit products"

    def draw(left: Axes, right: Axes) -> None:
        infer = [r.infer_instructions if counted else r.infer_macs for r in rows]
        train = [r.train_instructions if counted else r.train_macs for r in rows]
        for axes, values, title in (
            (left, infer, "an inference"),
            (right, train, f"a step of {batch} images"),
        ):
            axes.barh(range(len(rows)), [v / 1e6 for v in values], color=_BLUE)
            axes.set_title(title)
            axes.set_xlabel(unit)
        _names(left, [r.layer for r in rows])
        _names(right, [""] * len(rows))

    return draw_svg(9, _height(len(rows)), 2, draw)


def plot_plans(plans: Sequence[Plan]) -> str:
    """Return RAM by batch, a line for each depth of learning, and the products of an image."""
    depths = list(dict.fromkeys(p.learn for p in plans if not p.refused))

    def draw(left: Axes, right: Axes) -> None:
        for at, learn in enumerate(depths):
            own = [p for p in plans if p.learn == learn and not p.refused]
            batches, ram = [p.batch for p in own], [p.ram / _KIB for p in own]
            marker = _MARKERS[at % len(_MARKERS)]
            left.plot(batches, ram, marker=marker, label=depth(learn))
            right.barh(at, own[0].macs / own[0].batch / 1e6, color=f"C{at}")
        left.axhline(_BUDGET, color="#555555", linestyle=":", linewidth=1)
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:g}")
        left.set_xlabel("images of a step")
        left.set_ylabel(f"RAM [KiB]; dotted: {_BUDGET}")
        left.legend(fontsize=8)
        right.set_xlabel("million 8-bit products an image of a step")
        _names(right, [depth(learn) for learn in depths])

    return draw_svg(9, 3.6, 2, draw)


def plot_parts(parts: Sequence[Part]) -> str:
    """Return what a step takes in which some layers learn and the others rest."""
    counted = any(p.onward_instructions for p in parts)

    def draw(axes: Axes) -> None:
        onward = [p.onward_instructions if counted else p.onward for p in parts]
        alone = [p.alone_instructions if counted else p.alone for p in parts]
        for shift, values, colour, label in (
            (-0.2, onward, _BLUE, "this layer and all after it learn"),
            (0.2, alone, _ORANGE, "this layer alone learns"),
        ):
            places = [n + shift for n in range(len(parts))]
            axes.barh(places, [v / 1e6 for v in values], 0.38, color=colour, label=label)
        axes.set_xlabel("million instructions a step" if counted else "million products a step")
        _names(axes, [p.layers for p in parts])
        axes.legend(loc="lower right")

    return draw_svg(9, 1.2 + 0.36 * len(parts), 1, draw)


def depth(learn: str) -> str:
    """Return a depth of learning in words."""
    words = {
        "all": "everything",
        "affine": "γ, β, biases",
        "classifier": "classifier",
        "none": "nothing",
    }
    return words.get(learn, f"last {learn} layers")
