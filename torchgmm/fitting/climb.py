"""One run of a fit after another: from a state to its end, with everybody told."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ..covariance import Family
from ..errors import InputError
from ..exact import exact_device
from ..mixture import GaussianMixture
from ..parameters import Parameters
from ..seeding import Seeding, child
from .ahead import how_many, tentative
from .base import Method, Problem, State, Status, Step, own_state
from .events import Event, FitResult, Observer, Resumption, RowsEvent
from .stopping import Stop
from .watch import Watch

__all__ = ["STALL", "Begun", "Climb", "check_resumed", "on_device"]

# Exact EM falls only by rounding; a method that has not risen for so long will not rise.
STALL = 50


class Begun:
    """How far a fit has come: the one place that changes while it runs."""

    def __init__(self, state: State | None = None, history: Sequence[Step] = ()) -> None:
        self.run = 1
        self.state = state
        self.history = list(history)
        self.best: FitResult | None = None
        self.seconds = 0.0  # of the step under way, before it was cut off

    @classmethod
    def of(
        cls,
        climb: Climb,
        mixture: GaussianMixture,
        resume: Resumption | None,
        state: State | None,
    ) -> Begun:
        """A fit that goes on from a checkpoint, or with other rows; or a new one."""
        own = cls()
        if resume is not None:
            if resume.progress is not None:
                raise InputError(
                    "the fit to resume is of a batch of mixtures, this one of a single mixture"
                )
            place = exact_device(mixture.device)
            own._check(climb, mixture, resume.state)
            own.run, own.seconds = resume.run, resume.seconds
            own.state, own.history, own.best = on_device(
                (resume.state, list(resume.history), resume.best), place
            )
            climb.problem.generator.set_state(resume.generator)
        elif state is not None:
            own._check(climb, mixture, state)
            there = on_device(state, exact_device(mixture.device))
            own.state = climb.method.renewed(there, climb.problem)
        return own

    def _check(self, climb: Climb, mixture: GaussianMixture, state: State) -> None:
        n_features = climb.problem.source.n_features
        check_resumed(climb.method, state, state.parameters, mixture, n_features)

    def keep(self, mixture: GaussianMixture) -> None:
        """Copy the best that there is into the mixture."""
        kept = None if self.best is None else self.best.parameters
        reached = self.history[-1].log_likelihood if self.history else -math.inf
        if self.state is not None and (self.best is None or reached > self.best.log_likelihood):
            kept = self.state.parameters
        if kept is not None:
            mixture.assign(kept)


@dataclass(frozen=True)
class Climb:
    """One run after another, from a state to its end."""

    problem: Problem
    method: Method
    stop: Stop
    observers: tuple[Observer, ...]
    n_init: int

    def to_the_end(self, begun: Begun) -> FitResult:
        """Steps until the rule is met, the budget spent, or no step is possible."""
        status = None if not begun.history else self._verdict(begun.history)
        while status is None and len(begun.history) < self.method.max_iter:
            assert begun.state is not None
            for state, step in self._steps(begun):
                if not math.isfinite(step.log_likelihood):
                    status = Status.ENDED if step.last and not step.rows else Status.DIVERGED
                    break
                begun.state = state
                begun.history.append(step)
                self._tell(begun)
                status = self._verdict(begun.history)
                if status is not None:
                    break
        assert begun.state is not None
        return FitResult(
            begun.state.parameters,
            status or Status.BUDGET_SPENT,
            tuple(begun.history),
            begun.state,
        )

    def _steps(self, begun: Begun) -> list[tuple[State, Step]]:
        """The next steps: one, or some that were made before anybody looked at their numbers."""
        assert begun.state is not None
        own, problem = self.method, self.problem
        possible, count = how_many(own, problem, begun.state, begun.history)
        if count:
            watch = self._watched(begun)
            watch.tell = None  # of rows read for a step that may have to be made again
            if found := tentative(own, problem, begun.state, count):
                watch.end()
                return found
        with problem.answers.looking() if possible else nullcontext():
            return [self._step(begun)]

    def _step(self, begun: Begun) -> tuple[State, Step]:
        assert begun.state is not None
        group = self.problem.group
        watch = self._watched(begun, begun.state.sums.rows // group.size)
        before = group.n_bytes
        state, step = self.method.step(begun.state, self.problem)
        step = dataclasses.replace(step, seconds=watch.seconds, n_bytes=group.n_bytes - before)
        watch.end()
        begun.seconds = 0.0
        return state, step

    def start(self, begun: Begun, seeding: Seeding, n_components: int, family: Family) -> State:
        """The state before the first step, from a start that the seeding finds."""
        self._watched(begun)
        source, generator = self.problem.source, self.problem.generator
        if self.n_init > 1:
            generator = child(generator, first=begun.run == 1)
        found = seeding(source, n_components, family, self.method.reg_covar, generator)
        return self.method.init(found, self.problem)

    def _watched(self, begun: Begun, rows: int = 0) -> Watch:
        watch = self.problem.watch
        watch.begin(rows, begun.seconds)
        watch.tell = (lambda: self._tell_rows(begun)) if self.observers else None
        return watch

    def cut(self, begun: Begun) -> list[BaseException]:
        """Tell the observers that an error ends the fit; what went wrong at that."""
        failed = []
        if self.problem.watch.state is not None:
            failed += _each(self.observers, lambda o: o.on_rows(self._rows_event(begun)))
        return failed + self.end(None)

    def end(self, result: FitResult | None) -> list[BaseException]:
        """Tell every observer that the fit is over; what went wrong at that."""
        return _each(self.observers, lambda observer: observer.on_end(result))

    def _tell_rows(self, begun: Begun) -> None:
        event = self._rows_event(begun)
        for observer in self.observers:
            observer.on_rows(event)

    def _rows_event(self, begun: Begun) -> RowsEvent:
        source, watch = self.problem.source, self.problem.watch
        seeding = begun.state is None
        rows = watch.rows * self.problem.group.size  # the others have come as far
        return RowsEvent(
            rows,
            source.n_rows if seeding else self.method.rows_of_step(source),
            rows * source.row_bytes,
            watch.seconds,
            0 if seeding else len(begun.history) + 1,
            self.method.max_iter,
            begun.run,
            self.n_init,
            watch.state,
            tuple(begun.history),
            begun.best,
        )

    def _verdict(self, history: Sequence[Step]) -> Status | None:
        levels = [step.log_likelihood for step in history]
        if history[-1].rescued == 0 and self.stop.met(levels):
            return Status.CONVERGED
        if history[-1].last:
            return Status.ENDED
        if len(levels) - 1 - levels.index(max(levels)) >= STALL:
            return Status.STALLED
        return None

    def _tell(self, begun: Begun) -> None:
        if not self.observers:
            return
        history = tuple(begun.history)
        last = history[-1]
        change = last.log_likelihood - history[-2].log_likelihood if history[1:] else math.inf
        assert begun.state is not None
        event = Event(
            last,
            len(history),
            self.method.max_iter,
            change,
            last.rows,
            begun.run,
            self.n_init,
            begun.state,
            history,
            begun.best,
            last.rows * self.problem.source.row_bytes,
        )
        for observer in self.observers:
            observer.on_step(event)


def check_resumed(
    method: Method, state: State, found: Parameters, mixture: GaussianMixture, n_features: int
) -> None:
    """Refuse to go on from a fit of another method, or of other mixtures, `found`, than this."""
    own_state(method, state, method.state_type)
    wanted = (mixture.n_components, n_features, mixture.family)
    if (found.n_components, found.n_features, found.family) != wanted:
        raise InputError(
            f"the fit to resume has K={found.n_components}, D={found.n_features}, "
            f"{found.family.name}; this one has K={wanted[0]}, D={wanted[1]}, {wanted[2].name}"
        )


def _each(observers: Sequence[Observer], call: Callable[[Observer], None]) -> list[BaseException]:
    """Call each one, whatever the ones before did; what they raised."""
    failed: list[BaseException] = []
    for observer in observers:
        try:
            call(observer)
        except BaseException as error:
            failed.append(error)
    return failed


def on_device(value: Any, device: torch.device) -> Any:
    """The same value with every tensor in it on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, (tuple, list)):
        return type(value)(on_device(part, device) for part in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = [f.name for f in dataclasses.fields(value)]
    return dataclasses.replace(
        value, **{name: on_device(getattr(value, name), device) for name in fields}
    )
