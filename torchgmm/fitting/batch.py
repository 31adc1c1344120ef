"""A fit of many mixtures at once: each has its own end, and those that are done leave."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import checks
from ..collective import current
from ..data import Groups, as_groups
from ..errors import InputError
from ..kernels import full_precision
from ..mixture import GaussianMixture
from ..parameters import Parameters, concatenated, filled_up
from ..seeding import Seeding, Start
from .base import BatchStep, Method, Problem, State, Status, Step
from .batch_result import BatchResult, Course, Ends, Progress, better, joined, worst
from .climb import STALL
from .events import Event, Observer, Resumption
from .going_on import ends_of, gone_on
from .stopping import Stop

__all__ = ["Batch", "Run"]

# Bytes of the moments or parameters of the mixtures that climb together; about ten such stand.
_STATISTICS = 8 * 2**20
_ALIVE = -1  # in the place of a status
_STATUS = tuple(Status)
_ENDED, _STALLED, _CONVERGED, _DIVERGED, _SINGULAR, _SPENT = (
    _STATUS.index(status)
    for status in (
        Status.ENDED, Status.STALLED, Status.CONVERGED, Status.DIVERGED, Status.SINGULAR,
        Status.BUDGET_SPENT,
    )
)  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Fits a batch of mixtures, with the steps that fit one.

    Args:
        mixture: changed in place.
        method: how steps are made.
        stop: the rule, which every mixture meets by itself.
        observers: told about steps of all together.
    """

    mixture: GaussianMixture
    method: Method
    stop: Stop
    observers: tuple[Observer, ...]

    def open(self, data: Any, weights: Any, labels: Any, encoder: Any) -> Groups:
        """The rows, with as many as each mixture needs."""
        own = self.mixture
        if current().size > 1:
            raise InputError(
                "a batch of mixtures is fitted by one process: let each fit its own, inside "
                "`with torchgmm.alone():`"
            )
        if isinstance(data, torch.Tensor) and data.device.type not in ("cpu", own.device.type):
            raise InputError(f"rows are on {data.device}, the mixture on {own.device}: move one")
        rows = as_groups(
            data,
            own.batch_shape,
            own.dtype,
            own.device,
            weights=weights,
            labels=labels,
            encoder=encoder,
        )
        if own.n_features is not None:
            checks.check_rows((1, rows.n_features), own.n_features)
        needed = (own.logits.detach() > -math.inf).reshape(-1, own.n_components).sum(-1).cpu()
        few = (rows.counts >= 0) & (rows.counts < needed)
        if bool(few.any()):
            g = int(few.nonzero()[0])
            raise InputError(
                f"{int(few.sum())} mixture(s) have fewer rows than components, the first is number "
                f"{g} with {int(rows.counts[g])} row(s) for n_components={int(needed[g])}: give "
                "more rows or fewer components"
            )
        return rows

    def fit(
        self,
        rows: Groups,
        seeding: Seeding,
        n_init: int,
        generator: torch.Generator,
        resume: Resumption | None = None,
    ) -> BatchResult:
        """The best of `n_init` runs of every mixture, or what is left of them."""
        mixture = self.mixture
        if n_init > 1 and isinstance(seeding, Start):
            raise InputError(f"n_init={n_init} runs from one and the same start would all be equal")
        problem = Problem(rows, generator)
        mixture.materialize(rows.n_features)
        for observer in self.observers:
            observer.on_start(problem, self.method, n_init)
        done, best, left = gone_on(
            resume, self.mixture, self.method, rows, self._parts(rows), generator
        )
        run: Run | None = None
        try:
            with full_precision(mixture.device):
                for part in self._parts(rows)[len(done) :]:
                    some, seeds = rows.only(part), seeding.only(part)
                    for number in range(1 if left is None else left.run, n_init + 1):
                        if left is None:
                            start = self._start(some, part, seeds, generator)
                        else:
                            start = ends_of(left).found
                        own = Problem(some, generator)
                        run = Run(self, own, start, number, n_init, best, tuple(done), left)
                        best, left = better(best, run.to_the_end()), None
                        run = None
                    assert best is not None
                    done.append(best)
                    best = None
        except BaseException:
            cut = best if run is None else better(best, run.result())
            kept = done if cut is None else [*done, cut]
            self._assign_first(kept)
            for observer in self.observers:
                observer.on_end(None)
            raise
        result = joined(done, tuple(mixture.batch_shape))
        self._assign(result.parameters)
        for observer in self.observers:
            observer.on_end(result)
        return result

    def _parts(self, rows: Groups) -> Sequence[torch.Tensor]:
        """Numbers of the mixtures that climb together."""
        return torch.split(torch.arange(rows.n_groups), self._at_once(rows))

    def _at_once(self, rows: Groups) -> int:
        """How many mixtures climb together: statistics of more would leave the budget.

        All, where rows come from a disk or a stream: a pass then costs more than anything.
        """
        if rows.reads:
            return rows.n_groups
        own = self.mixture
        k, d = own.n_components, rows.n_features
        numbers = math.prod(own.family.scale_shape(k, d)) + k * (d + 1)
        return max(1, _STATISTICS // (8 * numbers))

    def _start(
        self, rows: Groups, part: torch.Tensor, seeding: Seeding, generator: torch.Generator
    ) -> Parameters:
        """Where a run begins; mixtures with fewer components than others are seeded with theirs."""
        own, floor = self.mixture, self.method.reg_covar
        present = (own.logits.detach() > -math.inf).reshape(-1, own.n_components).sum(-1).cpu()
        present = present[part]
        most = own.n_components
        if isinstance(seeding, Start) or bool((present == most).all()):
            return seeding.batch(rows, most, own.family, floor, generator)
        found: Parameters | None = None
        for k in sorted(set(present.tolist())):
            where = (present == k).nonzero().flatten()
            some = seeding.batch(rows.only(where), k, own.family, floor, generator)
            some = filled_up(some, most)
            if found is None:
                found = some[torch.zeros(len(present), dtype=torch.int64)]
            found = found.put(where.to(found.means.device), some)
        assert found is not None
        return found

    def _assign_first(self, kept: list[BatchResult]) -> None:
        """Keep what was found of the first mixtures; the others stay as they were."""
        if not kept:
            return
        found = joined(kept, ()).parameters
        flat = self.mixture.as_parameters(torch.float64).map(torch.Tensor.detach).flat()
        first = torch.arange(len(found.means), device=flat.means.device)
        self._assign(flat.put(first, found))

    def _assign(self, flat: Parameters) -> None:
        self.mixture.assign(flat.shaped(self.mixture.batch_shape))


@dataclass
class Run:
    """One run: what changes while it goes on."""

    batch: Batch
    problem: Problem
    start: Parameters
    number: int
    n_init: int
    best: BatchResult | None
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
        self._top = np.full(len(self._active), -math.inf)  # their best, and steps since then
        self._since = np.zeros(len(self._active), int)
        for levels in self._levels:
            self._rise(levels)

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
        method, problem = self.batch.method, self.problem
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
        self._rise(levels)
        if len(self._levels) > STALL:
            ended[self._since >= STALL] = _STALLED
        met = self.batch.stop.met_each(self._levels)
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

    def _rise(self, levels: np.ndarray) -> None:
        """Note the best level of each active mixture, and for how long there was no better."""
        self._since += 1
        self._since[levels > self._top] = 0
        self._top = np.fmax(self._top, levels)

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
        self._top, self._since = self._top[stays], self._since[stays]
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
            shape=tuple(self.batch.mixture.batch_shape),
        )

    def _tell(self, step: Step) -> None:
        if not self.batch.observers:
            return
        history = tuple(self._history)
        assert self._state is not None
        change = step.log_likelihood - history[-2].log_likelihood if history[1:] else math.inf
        ends = Ends(self._found(), self._status.copy(), self._active, self._course)
        event = Event(
            step,
            len(history),
            self.batch.method.max_iter,
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
        for observer in self.batch.observers:
            observer.on_step(event)
