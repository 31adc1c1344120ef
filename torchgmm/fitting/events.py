"""What is told about a fit: events and who hears of them, the result, where it goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from ..parameters import Parameters
from .base import Method, Problem, State, Status, Step

if TYPE_CHECKING:
    from .batch_result import Progress

__all__ = ["Event", "FitResult", "Observer", "Resumption", "RowsEvent"]


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
    progress: Progress | None = None  # of a batch of mixtures, beside `state`


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
    progress: Progress | None = None  # of a batch of mixtures, beside `state`


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
        progress: of a batch of mixtures, the rest of what is known.
    """

    run: int
    state: State
    history: tuple[Step, ...]
    best: FitResult | None
    generator: Tensor
    seconds: float = 0.0
    progress: Progress | None = None
