"""A fit in progress, to and from one safetensors file: killed at any moment, it goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .covariance import Family, as_family
from .data import Groups
from .errors import InputError, StoreError
from .fitting import (
    BatchResult,
    BatchStep,
    Course,
    Ends,
    Event,
    FitResult,
    Method,
    Observer,
    Problem,
    Progress,
    Resumption,
    RowsEvent,
    State,
    Status,
    Step,
    StepSums,
)
from .moments import Moments
from .parameters import Parameters
from .store import read_tensors, write_tensors

__all__ = ["Checkpoint", "load_state", "read_checkpoint", "save_state"]

FORMAT, STATE_FORMAT = "torchgmm-checkpoint", "torchgmm-state"
VERSION = 1
# within a step a write comes after so many seconds at the earliest, however short `every` is
_WITHIN = 1.0
# what a checkpoint may hold besides the states of methods; nothing else is ever made from a file
_VALUES = (
    Parameters, Moments, Step, BatchStep, StepSums, FitResult, BatchResult, Course, Ends, Progress
)  # fmt: skip
_WRONG = (KeyError, ValueError, TypeError, AttributeError, InputError)


class Checkpoint(Observer):
    """Writes the state of a fit to a file, every so many seconds and when the fit ends early.

    A step that takes longer than that is written in its middle, with the place of the reader. The
    file is replaced as a whole: whenever the process is killed, the last one is intact, and
    `fit(..., resume=read_checkpoint(path))` gives the same mixture, bit for bit, as the fit that
    was not killed (same machine, on the CPU). So does that of a batch of mixtures, which is written
    between two steps where all climb together.

    Args:
        path: the file.
        every: seconds between writes; 0 writes after every step, and in a long one every second.
    """

    def __init__(self, path: str | os.PathLike[str], every: float = 60.0) -> None:
        self.path = Path(path)
        self.every = every
        self._generator = torch.Generator()
        self._written = -float("inf")
        self._began = time.monotonic()
        self._unwritten: tuple[Event | RowsEvent, Tensor] | None = None

    def on_start(self, problem: Problem, method: Method, n_init: int) -> None:
        """Remember the generator, whose state belongs to a checkpoint."""
        self._generator = problem.generator
        self._began = time.monotonic()
        if not problem.source.stable and not isinstance(problem.source, Groups):
            warnings.warn(
                "the loader draws another order of its rows on every pass: a fit that goes on "
                "from this checkpoint is another one. For the same, bit for bit, give it "
                "shuffle=False",
                UserWarning,
                stacklevel=2,
            )

    def on_step(self, event: Event) -> None:
        """Write, if it is time."""
        self._keep(event)
        if time.monotonic() - self._written >= self.every:
            self._write()

    def on_rows(self, event: RowsEvent) -> None:
        """Write in the middle of a step, if that takes long."""
        if event.state is None:
            return
        self._keep(event)
        since = max(self._written, self._began)
        if time.monotonic() - since >= max(self.every, _WITHIN):
            self._write()

    def _keep(self, event: Event | RowsEvent) -> None:
        # the generator as it is now: the next run draws its start before this may be written
        self._unwritten = event, self._generator.get_state()

    def on_end(self, result: FitResult | None) -> None:
        """Write what was reached if an error or Ctrl-C ended the fit."""
        if result is None and self._unwritten is not None:
            self._write()

    def _write(self) -> None:
        assert self._unwritten is not None
        (event, generator), self._unwritten = self._unwritten, None
        tensors: dict[str, Tensor] = {"generator": generator}
        # of mixtures that climb together their course holds the steps
        together = event.progress is not None and event.progress.ends is not None
        content = {
            "run": event.run,
            "state": _packed(event.state, "state", tensors),
            "history": _packed(() if together else event.history, "history", tensors),
            "best": _packed(event.best, "best", tensors),
            "progress": _packed(event.progress, "progress", tensors),
            "seconds": event.seconds if isinstance(event, RowsEvent) else 0.0,
        }
        _write(content, tensors, FORMAT, self.path)
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
        seconds = float(content.get("seconds", 0.0))
        run, generator = int(content["run"]), tensors["generator"]
        progress = _unpacked(content.get("progress"), tensors)
        if not isinstance(progress, Progress | None):
            raise TypeError(f"a {type(progress).__name__} stands where it does not belong")
        return Resumption(run, state, history, best, generator, seconds, progress)
    except _WRONG as error:
        raise StoreError(f"{path} is damaged: {error!r}") from error


def save_state(state: State, path: str | os.PathLike[str]) -> None:
    """Write the state of a result to one safetensors file, replaced as a whole or not at all.

    With it a fit to other rows goes on another day: `fit(mixture, rows, OnlineEM(), state=...)`.

    Example:
        >>> import tempfile, torch, torchgmm as tg
        >>> file = tempfile.mkdtemp() + "/state.safetensors"
        >>> mixture = tg.GaussianMixture(2)
        >>> result = tg.fit(mixture, iter([torch.randn(100, 3)]), tg.OnlineEM(), generator=0)
        >>> tg.save_state(result.state, file)
        >>> more = iter([torch.randn(50, 3)])
        >>> result = tg.fit(mixture, more, tg.OnlineEM(), state=tg.load_state(file))
        >>> result.state.rows_seen
        150.0
    """
    tensors: dict[str, Tensor] = {}
    _write({"state": _packed(state, "state", tensors)}, tensors, STATE_FORMAT, Path(path))


def load_state(path: str | os.PathLike[str]) -> State:
    """Read a state that `save_state` wrote.

    Raises:
        StoreError: no such file, a damaged one, one of another program or of a later version.
    """
    metadata, tensors = read_tensors(Path(path), "cpu", STATE_FORMAT, VERSION)
    try:
        state = _unpacked(json.loads(metadata["content"])["state"], tensors)
        if not isinstance(state, State):
            raise TypeError(f"a {type(state).__name__} stands where a state belongs")
    except _WRONG as error:
        raise StoreError(f"{path} is damaged: {error!r}") from error
    return state


def _write(content: Any, tensors: dict[str, Tensor], file_format: str, path: Path) -> None:
    metadata = {"format": file_format, "format_version": str(VERSION)}
    write_tensors(tensors, metadata | {"content": json.dumps(content)}, path)


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors set aside under dotted names."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        return {"array": _packed(torch.from_numpy(value), name, tensors)}
    if isinstance(value, Family):
        return {"family": value.name}
    if isinstance(value, Status):
        return {"status": value.name}
    if isinstance(value, tuple):
        return {"tuple": [_packed(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]}
    if dataclasses.is_dataclass(value):
        kind = type(value).__name__
        if _kinds().get(kind) is not type(value):
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
    if "array" in packed:
        return _unpacked(packed["array"], tensors).numpy()
    if "family" in packed:
        return as_family(packed["family"])
    if "status" in packed:
        return Status[packed["status"]]
    if "tuple" in packed:
        return tuple(_unpacked(v, tensors) for v in packed["tuple"])
    fields = {name: _unpacked(v, tensors) for name, v in packed["fields"].items()}
    return _kinds()[packed["value"]](**fields)


def _kinds() -> dict[str, type[Any]]:
    """The classes that a file may name: values of this package, and the states of all methods."""
    return {cls.__name__: cls for cls in (*_VALUES, *_states(State))}


def _states(kind: type[State]) -> Iterator[type[State]]:
    yield kind
    for own in kind.__subclasses__():
        yield from _states(own)
