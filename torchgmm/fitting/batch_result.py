"""How the fit of a batch of mixtures went, or how far it has come: the course of each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..parameters import Parameters, concatenated, without_absent
from .base import BatchStep, State, Status, Step
from .events import FitResult

__all__ = [
    "BatchResult",
    "Course",
    "Ends",
    "Histories",
    "Progress",
    "better",
    "joined",
    "worst",
]


@dataclass(frozen=True, eq=False)
class Course:
    """How every mixture of a batch came to its end: one entry per step for those it moved.

    Attributes:
        counts: `(B,)` rows of each mixture; negative where only reading tells.
        steps: the mixtures that a step moved, the step, and for which of them it counts.
    """

    counts: np.ndarray
    steps: tuple[tuple[np.ndarray, BatchStep, np.ndarray], ...] = ()

    @property
    def n_steps(self) -> np.ndarray:
        """`(B,)` steps that each has made."""
        made = np.zeros(len(self.counts), int)
        for active, _, sound in self.steps:
            made[active[sound]] += 1
        return made

    def followed(self, active: np.ndarray, step: BatchStep, sound: np.ndarray) -> Course:
        """With a step of the mixtures `active`; it counts for those where it was `sound`."""
        return Course(self.counts, (*self.steps, (active, step, sound)))

    def levels_of(self, some: np.ndarray) -> np.ndarray:
        """Mean log-likelihoods of some mixtures, which every step has moved, `(steps, b)`."""
        rows = [step.levels.numpy()[np.searchsorted(on, some)] for on, step, _ in self.steps]
        return np.stack(rows) if rows else np.empty((0, len(some)))

    def last_levels(self) -> Tensor:
        """The mean log-likelihood of each at its last E-step, nats."""
        levels = np.full(len(self.counts), math.nan)
        for active, step, sound in self.steps:
            levels[active[sound]] = step.levels.numpy()[sound]
        return torch.from_numpy(levels)

    def of(self, mixture: int) -> tuple[Step, ...]:
        """The steps of one mixture; a step's duration is that of all it moved."""
        own = []
        for active, step, sound in self.steps:
            at = int(np.searchsorted(active, mixture))
            if at < len(active) and active[at] == mixture and sound[at]:
                level, rescued = float(step.levels[at]), int(step.rescues[at])
                collapsed, rows = int(step.collapses[at]), int(self.counts[mixture])
                rows = step.rows if rows < 0 else rows  # of all, who share them
                own.append(Step(level, rows, step.seconds, rescued, collapsed, step.kernel))
        return tuple(own)

    def merged(self, other: Course, taken: np.ndarray) -> Course:
        """Of the mixtures `taken (B,)` the other's steps, of the rest these."""
        kept = [(a, s, sound & ~taken[a]) for a, s, sound in self.steps]
        new = [(a, s, sound & taken[a]) for a, s, sound in other.steps]
        return Course(self.counts, (*kept, *new))

    @staticmethod
    def joined(parts: Sequence[Course]) -> Course:
        """Of some mixtures after the others."""
        steps, first = [], 0
        for one in parts:
            steps += [(active + first, step, sound) for active, step, sound in one.steps]
            first += len(one.counts)
        return Course(np.concatenate([one.counts for one in parts]), tuple(steps))


@dataclass(frozen=True, eq=False)
class Histories(Course):
    """The same of mixtures that were fitted one after the other.

    Attributes:
        each: their results.
    """

    each: tuple[FitResult, ...] = ()

    @property
    def n_steps(self) -> np.ndarray:
        return np.array([one.n_steps for one in self.each])

    def last_levels(self) -> Tensor:
        return torch.tensor([one.log_likelihood for one in self.each], dtype=torch.float64)

    def of(self, mixture: int) -> tuple[Step, ...]:
        return self.each[mixture].history


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
class Ends:
    """Where the mixtures of a batch are that climb together.

    Attributes:
        found: `(B, ...)` parameters of those at their end; of the others where they began.
        status: `(B,)` how each has ended, by its place in `Status`; -1 while it climbs.
        active: numbers of those that climb; `State` is of them alone.
        course: the steps so far.
    """

    found: Parameters
    status: np.ndarray
    active: np.ndarray
    course: Course


@dataclass(frozen=True)
class Progress:
    """How far the fit of a batch has come, beside the run that is under way.

    Attributes:
        done: results of the mixtures before it: of parts that climbed together, or of each.
        ends: of the mixtures that climb together now; None where one is fitted after the other.
        generator: as it was when those began that are fitted one after the other.
    """

    done: tuple[FitResult, ...] = ()
    ends: Ends | None = None
    generator: Tensor | None = None


def better(best: BatchResult | None, result: BatchResult) -> BatchResult:
    """Of each mixture the run of higher likelihood."""
    if best is None:
        return result
    runs = torch.cat([best.levels_of_runs, result.levels_of_runs])
    higher = result.levels.nan_to_num(nan=-math.inf) > best.levels.nan_to_num(nan=-math.inf)
    index = higher.nonzero().flatten()
    parameters = best.parameters.put(
        index.to(best.parameters.means.device), result.parameters[index]
    )
    statuses = tuple(
        new if taken else old
        for old, new, taken in zip(best.statuses, result.statuses, higher.tolist(), strict=True)
    )
    return replace(
        best,
        parameters=parameters,
        status=worst(statuses),
        history=best.history + result.history,
        state=replace(best.state, parameters=parameters),
        statuses=statuses,
        course=best.course.merged(result.course, higher.numpy()),
        levels=torch.where(higher, result.levels, best.levels),
        levels_of_runs=runs,
    )


def joined(parts: Sequence[BatchResult], shape: tuple[int, ...]) -> BatchResult:
    """The results of some mixtures after the others as that of all."""
    first = parts[0]
    if len(parts) == 1:
        return replace(first, shape=shape)
    parameters = concatenated([one.parameters for one in parts])
    statuses = tuple(status for one in parts for status in one.statuses)
    return replace(
        first,
        parameters=parameters,
        status=worst(statuses),
        history=tuple(step for one in parts for step in one.history),
        state=replace(first.state, parameters=parameters),
        statuses=statuses,
        course=Course.joined([one.course for one in parts]),
        levels=torch.cat([one.levels for one in parts]),
        levels_of_runs=torch.cat([one.levels_of_runs for one in parts], 1),
        shape=shape,
    )


def worst(statuses: Sequence[Status]) -> Status:
    """The one that stands for all: CONVERGED only if it is everybody's."""
    return max(statuses, key=_ORDER.index)


_ORDER = (
    Status.CONVERGED,
    Status.ENDED,
    Status.STALLED,
    Status.BUDGET_SPENT,
    Status.SINGULAR,
    Status.DIVERGED,
)
