"""Command-line options from configuration classes: in groups, with the common ones first."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, Union

import tyro

_Config = TypeVar("_Config")

GROUPS: dict[str, tuple[str, ...]] = {
    "common": (
        "data",
        "model",
        "norm",
        "epochs",
        "steps",
        "seed",
        "seeds",
        "batch_size",
        "lr",
        "precision",
        "out",
        "classifier",
        "stream",
        "tasks",
        "learners",
        "buffers",
        "replay",
    ),
    "data": ("image_column", "label_column", "image_size", "classes", "images"),
    "network": ("width", "latent", "critic_norm", "weights", "latent_layer", "channels_last"),
    "schedule": (
        "momentum",
        "nesterov",
        "weight_decay",
        "decay_norm",
        "backbone_rate",
        "frozen_statistics",
        "schedule",
        "warmup",
        "label_smoothing",
        "augment",
        "crop_edges",
        "betas",
        "n_critic",
        "penalty",
        "joint",
    ),
    "integers": (
        "int8_norm",
        "int8_sigma",
        "int8_master_bits",
        "int8_error_bits",
        "int8_rounding",
        "int8_exponents",
        "int8_statistics",
        "int8_statistics_momentum",
        "int8_residual_fraction",
    ),
    "device": ("device", "threads", "sync_norm"),
    "output": (
        "distance_images",
        "sample_every",
        "rounds",
        "remeasure",
        "log_every",
        "tensorboard",
        "progress",
        "quiet",
    ),
}
"""Names of options by the heading that help shows them under."""
_METAVARS = {int: "INT", float: "FLOAT", str: "STR"}


def parse_options(
    default: _Config, program: str, description: str, arguments: list[str]
) -> tuple[_Config, bool]:
    """Parse arguments into a configuration.

    Args:
        default: Gives the class and the values of what is not given.
        program: Shown in the usage.
        description: Shown above the options.
        arguments: What the user typed after the command.

    Returns:
        The configuration, and whether to be quiet.

    Raises:
        SystemExit: After help, or after a mistyped option.
    """
    kind: Any = type(default)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    hints, texts = typing.get_type_hints(kind), _texts(kind)
    hints["quiet"], texts["quiet"] = bool, "Print the result only, and errors."
    groups = []
    for title, names in GROUPS.items():
        members = [
            (
                name,
                Annotated[
                    hints[name],
                    tyro.conf.arg(
                        help=texts[name], metavar=_metavar(hints[name]), help_behavior_hint=_default
                    ),
                ],
                dataclasses.field(default=getattr(default, name, False)),
            )
            for name in names
            if name in fields or name == "quiet"
        ]
        if members:
            group = dataclasses.make_dataclass(title, members, kw_only=True)
            groups.append((title, group, _fresh(group)))
    options = dataclasses.make_dataclass("options", groups, kw_only=True)
    options.__doc__ = description
    found: Any = tyro.cli(
        options,
        prog=program,
        description=description,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    values = {
        k: v for g in dataclasses.fields(options) for k, v in vars(getattr(found, g.name)).items()
    }
    quiet = values.pop("quiet")
    return dataclasses.replace(default, **values), quiet  # type: ignore[type-var]


def _fresh(group: Callable[[], Any]) -> Any:
    return dataclasses.field(default_factory=group)


def _default(text: str) -> str:
    """Return what help says of a default; where it is None, the option's own text does."""
    return "" if text == "None" else f"(default: {text})"


def _metavar(hint: object) -> str | None:
    """Return how a value is shown, for options that need not be given: without the None."""
    if typing.get_origin(hint) not in (Union, types.UnionType):
        return None
    (kind,) = (a for a in typing.get_args(hint) if a is not types.NoneType)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        many = arguments[-1] is Ellipsis
        return (
            f"{_METAVARS[arguments[0]]} ..." if many else " ".join(_METAVARS[a] for a in arguments)
        )
    if arguments:
        return "{" + ",".join(map(str, arguments)) + "}"
    return _METAVARS.get(kind, "PATH")


def _texts(kind: type) -> dict[str, str]:
    """Return the text under each field of a dataclass and of its bases."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                name, value = field.target, text.value
                if isinstance(name, ast.Name) and isinstance(value, ast.Constant):
                    texts[name.id] = " ".join(str(value.value).split())
    return texts
