"""What a state must be before a network takes it over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from torch import Tensor, nn

from l1bn.quantized.config import Config

_FREE = {"seed", "stochastic", "error_bits", "statistics", "momentum"}
"""Choices of how training goes on; the others decide what the integers of a state mean."""
_EXTRA = "_extra_state"


def check_state(network: nn.Module, state: Mapping[str, object], strict: bool) -> None:
    """Refuse a state that is not one of such a network, before anything has changed.

    Raises:
        ValueError: If the configuration, a type or a shape is another.
        RuntimeError: If keys are missing or unknown.
    """
    own = network.state_dict()
    if _EXTRA in state:
        _check_config(own[_EXTRA], state[_EXTRA])
    missing, unknown = own.keys() - state.keys(), state.keys() - own.keys()
    if strict and (missing or unknown):
        raise RuntimeError(
            f"expected the state of this network, {_keys('missing', missing)} and "
            f"{_keys('unknown', unknown)}; prepare the same model first"
        )
    for key in state.keys() & own.keys():
        _check_entry(key, own[key], state[key])


def _check_config(own: Mapping[str, Any], given: object) -> None:
    if not isinstance(given, Mapping) or not isinstance(given.get("step"), int):
        raise ValueError(f"{_EXTRA}: expected a step number, got {given!r}; the file is damaged")
    config = given.get("config")
    if config is None:
        return  # written before states named their configuration
    # An option that is younger than the state was at its default.
    config = {**asdict(Config()), **config}
    for name in (f.name for f in fields(Config) if f.name not in _FREE):
        if config.get(name) != own["config"][name]:
            raise ValueError(
                f"expected a state of {name}={own['config'][name]!r}, got one of "
                f"{name}={config.get(name)!r}; prepare the network with "
                f"Config({name}={config.get(name)!r})"
            )


def _check_entry(key: str, own: object, given: object) -> None:
    if not isinstance(own, Tensor):
        if isinstance(own, Mapping) and isinstance(given, Mapping) and "bits" in own:
            _check_bits(key, own, given)
        return
    wanted = f"{own.dtype} of shape {tuple(own.shape)}"
    if not isinstance(given, Tensor):
        raise ValueError(f"{key}: expected {wanted}, got {type(given).__name__}")
    if given.dtype != own.dtype or given.shape != own.shape:
        raise ValueError(
            f"{key}: expected {wanted}, got {given.dtype} of shape {tuple(given.shape)}; take the "
            "state of the same model, prepared"
        )


def _check_bits(key: str, own: Mapping[str, object], given: Mapping[str, object]) -> None:
    if given.get("bits") != own["bits"]:
        raise ValueError(
            f"{key}: expected masters of {own['bits']} bits, got {given.get('bits')}; prepare the "
            f"network with Config(master_bits={given.get('bits')})"
        )


def _keys(what: str, keys: set[str]) -> str:
    if not keys:
        return f"got none {what}"
    return (
        f"got {len(keys)} {what} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
    )
