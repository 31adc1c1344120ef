"""What is told about a fit: events and who hears of them, the result, where it goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..parameters import Parameters, without_absent
from .base import BatchStep, Method, Problem, State, Status, Step

__all__ = ["BatchResult", "Course", "Event", "FitResult", "Observer", "Resumption", "RowsEvent"]


@dataclass(frozen=True)
class Event:
    """What observers are told after every step."""

    step: Step
    number: int  # from 1
    max_iter: int
    change: float  # of the log-likelihood since the step before; inf at the first
    rows: int
    run: int  # from 1
    n_init: int
    state: State
    history: tuple[Step, ...]  # of this run, this step included
    best: FitResult | None  # of the runs before this one
    n_bytes: int = 0  # of the rows, as they are stored


@dataclass(frozen=True)
class RowsEvent:
    """What observers are told while a step is under way."""

    rows: int  # of this step, read so far
    total: int | None  # rows of the whole step, if known
    n_bytes: int  # of the rows so far, as they are stored
    seconds: float  # since the step began
    number: int  # of the step, from 1; 0 while a start is looked for
    max_iter: int
    run: int  # from 1
    n_init: int
    state: State | None  # from which the step can go on, if there is one
    history: tuple[Step, ...]  # the steps of this run before this one
    best: FitResult | None  # of the runs before this one


class Observer:
    """Told about a fit. Override what you need; an observer never changes the fit.

    But to rounding: of several small runs (`n_init`) one comes after the other where somebody is
    told about their steps, and otherwise they go side by side.
    """

    def on_start(self, problem: Problem, method: Method, n_init: int) -> None:
        """Before the first step of the first run."""

    def on_step(self, event: Event) -> None:
        """After every step."""

    def on_rows(self, event: RowsEvent) -> None:
        """While a step is under way, between two blocks: ten times a second at most.

        Once more if an error or Ctrl-C cuts the step, with the last state that can go on.
        """

    def on_end(self, result: FitResult | None) -> None:
        """After the last step, or, with None, when an error ends the fit."""


@dataclass(frozen=True)
class FitResult:
    """How a fit went; its best run if there were several.

    Attributes:
        parameters: what was found, in float64 (the mixture holds them in its own dtype).
        status: how it ended.
        history: one entry per step.
        state: to go on from.
        runs: the final log-likelihood of each of the `n_init` runs.
    """

    parameters: Parameters
    status: Status
    history: tuple[Step, ...]
    state: State
    runs: tuple[float, ...] = field(default=())

    @property
    def n_steps(self) -> int:
        """Steps made."""
        return len(self.history)

    @property
    def log_likelihood(self) -> float:
        """Mean log-likelihood per row at the last E-step, nats."""
        return self.history[-1].log_likelihood if self.history else float("nan")

    @property
    def converged(self) -> bool:
        """Whether the stopping rule was met."""
        return self.status is Status.CONVERGED

    @property
    def message(self) -> str:
        """The status as a sentence."""
        return self.status.value

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(step.seconds for step in self.history)

    @property
    def rescued(self) -> int:
        """Components replaced during the fit."""
        return sum(step.rescued for step in self.history)

    @property
    def collapsed(self) -> int:
        """Components that ended with nothing but the floor for a covariance."""
        return self.history[-1].collapsed if self.history else 0

    def __repr__(self) -> str:
        """The same at a prompt; what it holds is in the attributes."""
        return f"<{type(self).__name__} {self}>"

    def __str__(self) -> str:
        """A few words for a log."""
        words = f"{self.status.name}: {self.message}; {self.n_steps} steps, "
        words += f"mean log-likelihood {self.log_likelihood:.6g} nats, {self.seconds:.3g} s"
        if self.rescued:
            words += f", {self.rescued} component(s) rescued"
        if self.collapsed:
            words += f", {self.collapsed} component(s) at the floor"
        return words


class Course:
    """How every mixture of a batch came to its end: one entry per step for those it moved.

    Args:
        counts: `(B,)` rows of each mixture; negative where only reading tells.
    """

    def __init__(self, counts: np.ndarray) -> None:
        self._counts, self._n = counts, len(counts)
        n = self._n
        self._steps: list[tuple[np.ndarray, BatchStep, np.ndarray]] = []
        self.n_steps = np.zeros(n, int)

    def add(self, active: np.ndarray, step: BatchStep, sound: np.ndarray) -> None:
        """A step of the mixtures `active`; it counts for those where it was `sound`."""
        self._steps.append((active, step, sound))
        self.n_steps[active[sound]] += 1

    def last_levels(self) -> Tensor:
        """The mean log-likelihood of each at its last E-step, nats."""
        levels = np.full(self._n, math.nan)
        for active, step, sound in self._steps:
            levels[active[sound]] = step.levels.numpy()[sound]
        return torch.from_numpy(levels)

    def of(self, mixture: int) -> tuple[Step, ...]:
        """The steps of one mixture; a step's duration is that of all it moved."""
        own = []
        for active, step, sound in self._steps:
            at = int(np.searchsorted(active, mixture))
            if at < len(active) and active[at] == mixture and sound[at]:
                level, rescued = float(step.levels[at]), int(step.rescues[at])
                collapsed, rows = int(step.collapses[at]), int(self._counts[mixture])
                rows = step.rows if rows < 0 else rows  # of all, who share them
                own.append(Step(level, rows, step.seconds, rescued, collapsed, step.kernel))
        return tuple(own)

    def merged(self, other: Course, taken: np.ndarray) -> Course:
        """Of the mixtures `taken (B,)` the other's steps, of the rest these."""
        both = Course(self._counts)
        both.n_steps = np.where(taken, other.n_steps, self.n_steps)
        both._steps = [(a, s, sound & ~taken[a]) for a, s, sound in self._steps]
        both._steps += [(a, s, sound & taken[a]) for a, s, sound in other._steps]
        return both

    @staticmethod
    def joined(parts: Sequence[Course]) -> Course:
        """Of some mixtures after the others."""
        both = Course(np.concatenate([one._counts for one in parts]))
        both.n_steps = np.concatenate([one.n_steps for one in parts])
        first = 0
        for one in parts:
            both._steps += [(active + first, step, sound) for active, step, sound in one._steps]
            first += one._n
        return both


class Histories(Course):
    """The same of mixtures that were fitted one after the other."""

    def __init__(self, each: Sequence[FitResult]) -> None:
        super().__init__(np.full(len(each), -1))
        self._each = each
        self.n_steps = np.array([one.n_steps for one in each])

    def last_levels(self) -> Tensor:
        return torch.tensor([one.log_likelihood for one in self._each], dtype=torch.float64)

    def of(self, mixture: int) -> tuple[Step, ...]:
        return self._each[mixture].history


@dataclass(frozen=True, repr=False)
class BatchResult(FitResult):
    """How the fit of a batch of mixtures went. What a `FitResult` has is of all together here.

    `result[b]` is the `FitResult` of one mixture. Mixtures are numbered in the order of the
    flattened batch; `parameters` has that one leading axis.

    Attributes:
        statuses: how each ended; `status` is the worst of them.
        levels: `(B,)` mean log-likelihood per row of each at its last E-step, nats.
        levels_of_runs: `(n_init, B)` the same at the end of every run.
        course: the steps of each.
        shape: of the batch.
        states: to go on from, of each, where they were fitted one after the other.
    """

    statuses: tuple[Status, ...] = field(kw_only=True)
    course: Course = field(kw_only=True, repr=False)
    levels: Tensor = field(kw_only=True, repr=False)
    levels_of_runs: Tensor = field(kw_only=True, repr=False)
    shape: tuple[int, ...] = field(kw_only=True)
    states: tuple[State, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.statuses)

    def __iter__(self) -> Iterator[FitResult]:
        return (self[b] for b in range(len(self)))

    def __getitem__(self, index: int | tuple[int, ...]) -> FitResult:
        """The result of one mixture, as if it had been fitted alone."""
        at = np.ravel_multi_index(index, self.shape) if isinstance(index, tuple) else index
        number = range(len(self))[int(at)]
        parameters = self.parameters[number]
        runs = tuple(float(level) for level in self.levels_of_runs[:, number])
        history = self.course.of(number)
        rescued = sum(step.rescued for step in history)
        if self.states:
            state, parameters = self.states[number], without_absent(parameters)
        else:
            state = replace(self.state, parameters=parameters, step=len(history), rescues=rescued)
        return FitResult(parameters, self.statuses[number], history, state, runs)

    @property
    def log_likelihood(self) -> float:
        """Mean over the mixtures of their mean log-likelihood per row, nats."""
        return float(self.levels.nanmean())

    @property
    def steps(self) -> Tensor:
        """`(B,)` steps made by each."""
        return torch.from_numpy(self.course.n_steps)

    @property
    def unconverged(self) -> list[int]:
        """Numbers of the mixtures whose fit neither met the rule nor ran out of rows."""
        done = (Status.CONVERGED, Status.ENDED)
        return [b for b, status in enumerate(self.statuses) if status not in done]

    def __str__(self) -> str:
        """A few words for a log."""
        counts = {s: self.statuses.count(s) for s in Status if s in self.statuses}
        words = f"{len(self)} mixtures: "
        words += "; ".join(f"{n} {s.name}: {s.value}" for s, n in counts.items())
        words += f"; {int(self.steps.max())} steps at most, {self.seconds:.3g} s"
        left = self.unconverged
        if left:
            words += f"; not converged: {', '.join(map(str, left[:8]))}"
            words += ", ..." if len(left) > 8 else ""
        return words


@dataclass(frozen=True)
class Resumption:
    """Where a fit that was cut off goes on: what `torchgmm.checkpoint` reads from a file.

    Attributes:
        run: the run that was under way, from 1.
        state: after its last step.
        history: of that run.
        best: of the runs before it.
        generator: state of the generator, for the runs to come.
        seconds: that the step under way had taken, if `state` stands in the middle of one.
    """

    run: int
    state: State
    history: tuple[Step, ...]
    best: FitResult | None
    generator: Tensor
    seconds: float = 0.0
