"""Running the user's example, to see how each block is called and that fusing changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from l1bn.convert.call import CallPattern
from l1bn.convert.fusion import Fusion
from l1bn.convert.generators import rewound
from l1bn.convert.watch import FUSION, is_fused, original_class


def call_with(model: nn.Module, example: Any) -> Any:
    """Call a model: a tuple or list gives positional arguments, a mapping keywords."""
    if isinstance(example, Mapping):
        return model(**example)
    if isinstance(example, (tuple, list)):
        return model(*example)
    return model(example)


def observe(model: nn.Module, example: Any) -> dict[nn.Module, CallPattern | str]:
    """Run the example in evaluation mode and note how each module is called first.

    Args:
        model: the model, left as it was.
        example: its input, see :func:`call_with`.

    Returns:
        For every module that ran its call pattern, or why it has none.

    Raises:
        ValueError: the model does not run on the example.
    """
    seen: dict[nn.Module, CallPattern | str] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module not in seen:
            try:
                seen[module] = CallPattern.of(args, kwargs)
            except ValueError as error:
                seen[module] = str(error)

    _run(model, example, note, model.modules())
    return seen


def verify(model: nn.Module, example: Any, take_back: Callable[[nn.Module, str], None]) -> None:
    """Run the example and compare each fused block with its original forward, in both modes.

    Args:
        model: the model, left as it was.
        example: its input, see :func:`call_with`.
        take_back: called with a block that differs, and how, before that block runs.
    """
    seen: set[nn.Module] = set()

    def compare(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if block in seen:
            return
        seen.add(block)
        differences = (_difference(block, args, kwargs, mode) for mode in (True, False))
        difference = next(filter(None, differences), None)
        if difference is not None:
            take_back(block, difference)

    # Hooks on anything else would switch its fusion off.
    _run(model, example, compare, filter(is_fused, model.modules()))


Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]


def _run(model: nn.Module, example: Any, before: Hook, modules: Iterable[nn.Module]) -> None:
    """Run the example without gradients, in evaluation mode, and leave no trace of it."""
    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in modules]
    try:
        with preserved(model), rewound(), torch.no_grad():
            model.eval()
            call_with(model, example)
    except Exception as error:
        raise ValueError(
            f"convert_: expected an example that the model can run, got {_text(example)}, which "
            f"raised {type(error).__name__}: {error}; the model is unchanged"
        ) from error
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Give every module its mode and its buffers back."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _difference(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool
) -> str | None:
    fusion: Fusion = block.__dict__[FUSION]
    forward = fusion.forced(training)
    if forward is None:
        return None
    original = original_class(block).forward

    def call(function: Callable[..., Any]) -> Any:
        # Clones, as a forward may write into its input; the same random numbers both times.
        fresh_args, fresh_kwargs = pytree.tree_map_only(Tensor, torch.clone, (args, kwargs))
        with preserved(block), rewound():
            block.train(training)
            return function(block, *fresh_args, **fresh_kwargs)

    where = "training" if training else "evaluation"
    try:
        expected = call(original)
    except ValueError:  # such as one value per channel in training
        return None
    try:
        return _compare(expected, call(forward), where)
    except Exception as error:
        return f"in {where} it raised {type(error).__name__}: {error}"


def _compare(expected: Any, got: Any, where: str) -> str | None:
    wanted, found = pytree.tree_leaves(expected), pytree.tree_leaves(got)
    if len(wanted) != len(found):
        return f"in {where} it returns {len(found)} values instead of {len(wanted)}"
    for left, right in zip(wanted, found, strict=True):
        if not isinstance(left, Tensor) or left.is_meta:
            continue
        if left.shape != right.shape or left.dtype != right.dtype:
            return f"in {where} it returns another shape or dtype"
        error, scale = (left - right).abs().max().item(), left.abs().max().item()
        if error > 100 * torch.finfo(left.dtype).eps * max(scale, 1.0):
            return f"in {where} it differs by {error:.1e}"
    return None


def _text(example: Any) -> str:
    if isinstance(example, Tensor):
        return f"a tensor of shape {tuple(example.shape)}, {example.dtype}, {example.device}"
    return f"a {type(example).__name__}"
