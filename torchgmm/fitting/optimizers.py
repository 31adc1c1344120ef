"""torch's optimisers and schedules as values: made from a name, kept as plain tuples."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import InputError

__all__ = ["frozen", "make_optimizer", "make_schedule", "optimizer_class", "thawed"]

T = TypeVar("T")


def optimizer_class(optimizer: str | type[Optimizer]) -> type[Optimizer]:
    """A class of torch.optim from its name, of any module from its path; a class is kept."""
    return _class(optimizer, torch.optim, Optimizer, "optimizer")


def _schedule_class(schedule: str | type[LRScheduler]) -> type[LRScheduler]:
    """A class of torch.optim.lr_scheduler from its name, of any module from its path."""
    return _class(schedule, torch.optim.lr_scheduler, LRScheduler, "scheduler")


def _class(given: Any, room: Any, kind: type[T], what: str) -> type[T]:
    found = given
    if isinstance(given, str):
        module, _, name = given.rpartition(".")
        try:
            found = getattr(importlib.import_module(module) if module else room, name, None)
        except ImportError as error:
            raise InputError(f"{what} {given!r} cannot be imported: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, kind)) or found is kind:
        raise InputError(
            f"{what} must be a class of {room.__name__} or its name, or the path of a subclass of "
            f"{kind.__name__}, got {given!r}"
        )
    return found


def make_optimizer(
    kind: str | type[Optimizer], leaves: list[Tensor], lr: float | None, options: Mapping[str, Any]
) -> Optimizer:
    """The optimiser of these tensors.

    Raises:
        InputError: options that it does not have, or values that it refuses.
    """
    cls = optimizer_class(kind)
    settings = dict(options)
    if lr is not None:
        settings["lr"] = lr
    if issubclass(cls, LBFGS):
        settings.setdefault("line_search_fn", "strong_wolfe")
    return _made(cls, leaves, settings, "optimizer_options")


def make_schedule(
    kind: str | type[LRScheduler], optimizer: Optimizer, options: Mapping[str, Any], steps: int
) -> LRScheduler:
    """The schedule, stepped once a step; lengths that it requires are those of the whole fit."""
    cls = _schedule_class(kind)
    settings = dict(options)
    for name in ("T_max", "total_steps"):
        wanted = inspect.signature(cls).parameters
        if name in wanted and name not in settings and "epochs" not in settings:
            settings[name] = max(1, steps)
    return _made(cls, optimizer, settings, "scheduler_options")


def _made(cls: type[T], of: Any, settings: dict[str, Any], what: str) -> T:
    try:
        return cls(of, **settings)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise InputError(f"{cls.__name__} refuses {what}={settings}: {error}") from error


def frozen(value: Any) -> Any:
    """A state dict as nested tuples of plain values and tensors (copied), which files can hold."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return ("dict", *(frozen(part) for pair in value.items() for part in pair))
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *(frozen(part) for part in value))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(
        f"the state of the optimizer or scheduler holds a {type(value).__name__}, which a fit "
        "cannot keep: choose one whose state is numbers"
    )


def thawed(value: Any) -> Any:
    """The inverse of `frozen`; its tensors are copies."""
    if isinstance(value, Tensor):
        return value.clone()
    if not isinstance(value, tuple):
        return value
    kind, *parts = value
    parts = [thawed(part) for part in parts]
    if kind == "dict":
        return dict(zip(parts[::2], parts[1::2], strict=True))
    return parts if kind == "list" else tuple(parts)
