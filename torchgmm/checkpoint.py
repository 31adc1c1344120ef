"""A fit in progress, to and from one safetensors file: killed at any moment, it goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .covariance import Family, as_family
from .errors import InputError, StoreError
from .fitting import (
    Event,
    FitResult,
    IncrementalState,
    Method,
    Observer,
    OnlineState,
    Problem,
    ReducedState,
    Resumption,
    State,
    Status,
    Step,
)
from .moments import Moments
from .parameters import Parameters
from .store import read_tensors, write_tensors

__all__ = ["Checkpoint", "read_checkpoint"]

FORMAT = "torchgmm-checkpoint"
VERSION = 1
# what a checkpoint may hold; nothing else is ever made from a file
_STATES = (State, OnlineState, IncrementalState, ReducedState)
_VALUES: Mapping[str, type[Any]] = {
    cls.__name__: cls for cls in (Parameters, Moments, Step, FitResult, *_STATES)
}


class Checkpoint(Observer):
    """Writes the state of a fit to a file, every so many seconds and when the fit ends early.

    The file is replaced as a whole: whenever the process is killed, the last one is intact, and
    `fit(..., resume=read_checkpoint(path))` gives the same mixture, bit for bit, as the fit that
    was not killed (same machine, on the CPU).

    Args:
        path: the file.
        every: seconds between writes; 0 writes after every step.
    """

    def __init__(self, path: str | os.PathLike[str], every: float = 60.0) -> None:
        self.path = Path(path)
        self.every = every
        self._generator = torch.Generator()
        self._written = -float("inf")
        self._unwritten: tuple[Event, Tensor] | None = None

    def on_start(self, problem: Problem, method: Method, n_init: int) -> None:
        """Remember the generator, whose state belongs to a checkpoint."""
        self._generator = problem.generator

    def on_step(self, event: Event) -> None:
        """Write, if it is time."""
        # as it is now: the seeding of the next run draws from it before this may be written
        self._unwritten = event, self._generator.get_state()
        if time.monotonic() - self._written >= self.every:
            self._write()

    def on_end(self, result: FitResult | None) -> None:
        """Write the last step if an error or Ctrl-C ended the fit."""
        if result is None and self._unwritten is not None:
            self._write()

    def _write(self) -> None:
        assert self._unwritten is not None
        (event, generator), self._unwritten = self._unwritten, None
        tensors: dict[str, Tensor] = {"generator": generator}
        content = {
            "run": event.run,
            "state": _packed(event.state, "state", tensors),
            "history": _packed(event.history, "history", tensors),
            "best": _packed(event.best, "best", tensors),
        }
        metadata = {
            "format": FORMAT,
            "format_version": str(VERSION),
            "content": json.dumps(content),
        }
        write_tensors(tensors, metadata, self.path)
        self._written = time.monotonic()


def read_checkpoint(path: str | os.PathLike[str]) -> Resumption:
    """What a fit goes on from: `fit(mixture, data, method, resume=read_checkpoint(path))`.

    Raises:
        StoreError: no such file, a damaged one, one of another program or of a later version.
    """
    metadata, tensors = read_tensors(Path(path), "cpu", FORMAT, VERSION)
    try:
        content = json.loads(metadata["content"])
        state, history, best = (
            _unpacked(content[name], tensors) for name in ("state", "history", "best")
        )
        for value, kinds in (state, State), (history, tuple), (best, (FitResult, type(None))):
            if not isinstance(value, kinds):
                raise TypeError(f"a {type(value).__name__} stands where it does not belong")
        return Resumption(int(content["run"]), state, history, best, tensors["generator"])
    except (KeyError, ValueError, TypeError, AttributeError, InputError) as error:
        raise StoreError(f"{path} is damaged: {error!r}") from error


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors set aside under dotted names."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Family):
        return {"family": value.name}
    if isinstance(value, Status):
        return {"status": value.name}
    if isinstance(value, tuple):
        return {"tuple": [_packed(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]}
    if dataclasses.is_dataclass(value):
        kind = type(value).__name__
        if _VALUES.get(kind) is not type(value):
            raise InputError(f"a {kind} cannot be written to a checkpoint")
        fields = {
            f.name: _packed(getattr(value, f.name), f"{name}.{f.name}", tensors)
            for f in dataclasses.fields(value)
        }
        return {"value": kind, "fields": fields}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"a {type(value).__name__} cannot be written to a checkpoint")


def _unpacked(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        return tensors[packed["tensor"]]
    if "family" in packed:
        return as_family(packed["family"])
    if "status" in packed:
        return Status[packed["status"]]
    if "tuple" in packed:
        return tuple(_unpacked(v, tensors) for v in packed["tuple"])
    fields = {name: _unpacked(v, tensors) for name, v in packed["fields"].items()}
    return _VALUES[packed["value"]](**fields)
