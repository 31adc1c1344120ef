"""What a fit is made of: methods, their state, steps, status, observers and the result."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from ..data import Block, Source
from ..data.base import in_order
from ..parameters import Parameters

__all__ = [
    "Event",
    "FitResult",
    "Method",
    "Observer",
    "Problem",
    "Resumption",
    "State",
    "Status",
    "Step",
]


class Status(Enum):
    """How a fit ended; the value is the sentence that the user reads."""

    CONVERGED = "the stopping rule is met"
    BUDGET_SPENT = "the step budget was spent before the stopping rule was met: raise max_iter"
    STALLED = "the log-likelihood has not risen for many steps: more will not help"
    ENDED = "the stream of rows has ended"
    DIVERGED = "the sums are no longer finite: the last good step is kept; rescale the columns"


@dataclass(frozen=True)
class Step:
    """One step of a fit.

    Attributes:
        log_likelihood: mean per row (per unit of weight), nats, of the parameters that *entered*
            the step, as scikit-learn's lower bound.
        rows: rows read.
        seconds: duration.
        rescued: components that were replaced.
        collapsed: components whose covariance is nothing but the floor.
        kernel: which kernel ran.
        last: no rows are left for another step.
    """

    log_likelihood: float
    rows: int = 0
    seconds: float = 0.0
    rescued: int = 0
    collapsed: int = 0
    kernel: str = ""
    last: bool = False


@dataclass(frozen=True)
class State:
    """All that the next step needs; nothing is hidden elsewhere.

    Attributes:
        parameters: the mixture, float64.
        step: how many steps were made.
        rescues: how many components were replaced so far.
    """

    parameters: Parameters
    step: int = 0
    rescues: int = 0


@dataclass(frozen=True)
class Problem:
    """What stays the same during a fit: the rows, and a generator for the methods that draw."""

    source: Source
    generator: torch.Generator
    _readers: dict[tuple[int, ...], Iterator[Block]] = field(default_factory=dict, repr=False)

    def batches(
        self, rows: int, seed: int, epoch: int, position: int, *, ordered: bool = False
    ) -> Iterator[Block]:
        """Random batches of this epoch, or batches in the rows' own order, from `position` on.

        A reader that stands there already goes on; otherwise one is opened and skips. So a step
        may end in the middle of a pass at no cost, and a resumed one finds its place.
        """
        reader = self._readers.pop((rows, seed, epoch, position), None)
        self._readers.clear()
        if reader is None:
            skip = position if self.source.replayable else 0
            if ordered:
                reader = itertools.islice(in_order(self.source.blocks(), rows), skip, None)
            else:
                reader = self.source.batches(rows, seed=seed, epoch=epoch, skip=skip)
        for batch in reader:
            position += 1
            self._readers.clear()
            self._readers[rows, seed, epoch, position] = reader
            yield batch


class Method(ABC):
    """How one step of a fit is made. Its fields are its configuration.

    Attributes:
        max_iter: the step budget.
        reg_covar: the floor, added to the diagonal of every covariance, in squared units of the
            data (scikit-learn's meaning).
    """

    max_iter: int
    reg_covar: float

    @abstractmethod
    def init(self, parameters: Parameters, problem: Problem) -> State:
        """The state before the first step."""

    @abstractmethod
    def step(self, state: State, problem: Problem) -> tuple[State, Step]:
        """One step; the state given is left as it is."""


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


class Observer:
    """Told about a fit. Override what you need; an observer never changes the fit."""

    def on_start(self, problem: Problem, method: Method, n_init: int) -> None:
        """Before the first step of the first run."""

    def on_step(self, event: Event) -> None:
        """After every step."""

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

    def __str__(self) -> str:
        """A few words for a log."""
        words = f"{self.status.name}: {self.message}; {self.n_steps} steps, "
        words += f"mean log-likelihood {self.log_likelihood:.6g} nats, {self.seconds:.3g} s"
        if self.rescued:
            words += f", {self.rescued} component(s) rescued"
        if self.collapsed:
            words += f", {self.collapsed} component(s) at the floor"
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
    """

    run: int
    state: State
    history: tuple[Step, ...]
    best: FitResult | None
    generator: Tensor
