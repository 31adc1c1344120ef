"""One run of a batch of mixtures, side by side until each is at its end."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from ..data import Groups
from ..parameters import Parameters, concatenated
from .base import BatchStep, Method, Problem, State, Status, Step
from .batch_result import BatchResult, Course, Ends, Progress, worst
from .climb import STALL
from .events import Event, Observer, Resumption
from .going_on import ends_of
from .stopping import Stop

__all__ = ["Run"]

_ALIVE = -1  # in the place of a status
_STATUS = tuple(Status)
_ENDED, _STALLED, _CONVERGED, _DIVERGED, _SINGULAR, _SPENT = (
    _STATUS.index(status)
    for status in (
        Status.ENDED, Status.STALLED, Status.CONVERGED, Status.DIVERGED, Status.SINGULAR,
        Status.BUDGET_SPENT,
    )
)  # fmt: skip


@dataclass
class Run:
    """One run: what changes while it goes on."""

    problem: Problem
    start: Parameters
    method: Method
    stop: Stop
    observers: tuple[Observer, ...] = ()
    shape: tuple[int, ...] = ()  # of the whole batch
    number: int = 1
    n_init: int = 1
    best: BatchResult | None = None
    done: tuple[BatchResult, ...] = ()  # of the mixtures before
    resume: Resumption | None = None

    def __post_init__(self) -> None:
        n = len(self.start.means)
        self._ended: list[tuple[np.ndarray, Parameters]] = []  # which ended together, and where
        self._status = np.full(n, _ALIVE)
        self._active = np.arange(n)
        assert isinstance(self.problem.source, Groups)
        self._course = Course(self.problem.source.counts.numpy())
        self._history: list[Step] = []
        self._state: State | None = None
        if self.resume is not None:
            ends = ends_of(self.resume)
            self._status, self._active, self._course = ends.status, ends.active, ends.course
            self._history = [step for _, step, _ in ends.course.steps]
            self._state = self.resume.state
        self._levels = self._course.levels_of(self._active)

    @property
    def climbing(self) -> list[int]:
        """Numbers of the mixtures that are not at their end."""
        return [int(number) for number in self._active]

    def to_the_end(self) -> BatchResult:
        """Steps until every mixture is at its end."""
        self.until_left(0)
        return self.result()

    def until_left(self, count: int) -> None:
        """Steps until no more than so many mixtures climb, or the budget is spent."""
        method, problem = self.method, self.problem
        if self._state is None:
            self._state = method.init(self.start, problem)
        elif len(self._active) < len(self._status):
            problem = problem.only(torch.from_numpy(self._active))
        while len(self._active) > count and len(self._history) < method.max_iter:
            began = time.perf_counter()
            after, step = method.step(self._state, problem)
            assert isinstance(step, BatchStep)
            step = dataclasses.replace(step, seconds=time.perf_counter() - began)
            self._history.append(step)
            ended = self._verdicts(step)
            before, self._state = self._state, after
            if (ended != _ALIVE).any():
                problem = self._leave(ended, before, problem)
            self._tell(step)

    def _verdicts(self, step: BatchStep) -> np.ndarray:
        """The status of each active mixture after a step, or that it goes on."""
        levels = step.levels.numpy()
        sound = np.isfinite(levels)
        ended = np.full(len(levels), _ENDED if step.last else _ALIVE)
        self._levels = np.concatenate([self._levels, levels[None]])
        if len(self._levels) > STALL:
            since = len(self._levels) - 1 - self._levels.argmax(0)
            ended[since >= STALL] = _STALLED
        met = self.stop.met_each(self._levels)
        if step.rescued:
            met &= step.rescues.numpy() == 0
        ended[met] = _CONVERGED
        if step.failed is not None:
            sound &= ~step.failed.numpy()
        if not sound.all():
            ended[~sound] = _DIVERGED
            if step.failed is not None:
                ended[step.failed.numpy()] = _SINGULAR
        self._course = self._course.followed(self._active, step, sound)
        return ended

    def _leave(self, ended: np.ndarray, before: State, problem: Problem) -> Problem:
        """Put away what is done; the rest goes on without it."""
        assert self._state is not None
        kept = (ended == _DIVERGED) | (ended == _SINGULAR)
        for some, state in (((ended != _ALIVE) & ~kept, self._state), (kept, before)):
            if some.any():
                mine = torch.from_numpy(np.flatnonzero(some))
                self._ended.append((self._active[some], state.parameters[mine]))
        stays = ended == _ALIVE
        self._status[self._active] = ended
        self._active, self._levels = self._active[stays], self._levels[:, stays]
        index = torch.from_numpy(np.flatnonzero(stays))
        self._state = self._state.only(index)
        return problem.only(index)

    def _found(self, *climbing: tuple[np.ndarray, Parameters]) -> Parameters:
        """All that have ended, and others, in their places; the rest where they began."""
        parts = [*self._ended, *climbing]
        if not parts:
            return self.start
        index = torch.from_numpy(np.concatenate([which for which, _ in parts]))
        ends = concatenated([parameters for _, parameters in parts])
        return self.start.put(index.to(ends.means.device), ends)

    def result(self) -> BatchResult:
        """What was found; mixtures still on their way as they are now."""
        status = self._status.copy()
        if len(self._active) and self._state is not None:
            found = self._found((self._active, self._state.parameters))
            status[self._active] = _SPENT
        else:
            found = self._found()
        statuses = tuple(_STATUS[s] for s in status)
        state, levels = self._state or State(found), self._course.last_levels()
        return BatchResult(
            found,
            worst(statuses),
            tuple(self._history),
            dataclasses.replace(state, parameters=found),
            statuses=statuses,
            course=self._course,
            levels=levels,
            levels_of_runs=levels[None],
            shape=self.shape,
        )

    def _tell(self, step: Step) -> None:
        if not self.observers:
            return
        history = tuple(self._history)
        assert self._state is not None
        change = step.log_likelihood - history[-2].log_likelihood if history[1:] else math.inf
        ends = Ends(self._found(), self._status.copy(), self._active, self._course)
        event = Event(
            step,
            len(history),
            self.method.max_iter,
            change,
            step.rows,
            self.number,
            self.n_init,
            self._state,
            history,
            self.best,
            step.rows * self.problem.source.row_bytes,
            Progress(self.done, ends),
        )
        for observer in self.observers:
            observer.on_step(event)
