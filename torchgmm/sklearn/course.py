"""The course of a fit in scikit-learn's words: its stopping rule, and the lines it prints."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..fitting import Event, FitResult, Method, Observer, Problem, Tolerance

__all__ = ["Since", "Verbose"]


@dataclass(frozen=True)
class Since(Tolerance):
    """`Tolerance` that knows where an earlier fit ended: a warm start may stop at its first step.

    Args:
        before: mean log-likelihood per row at the end of that fit, nats; -inf without one.
    """

    before: float = -math.inf

    def met(self, history: Sequence[float]) -> bool:
        return super().met((self.before, *history))


class Verbose(Observer):
    """Prints the beginning and end of every run, and every so many steps.

    Args:
        verbose: 1, or 2 for times and log-likelihoods as well.
        interval: steps between two lines.
        tol: what the estimator takes for convergence.
    """

    def __init__(self, verbose: int, interval: int, tol: float) -> None:
        self._verbose, self._interval, self._tol = verbose, interval, tol
        self._last: Event | None = None
        self._run_began = self._line_was = time.perf_counter()

    def on_start(self, problem: Problem, method: Method, n_init: int) -> None:
        self._begin(0)

    def on_step(self, event: Event) -> None:
        if self._last is not None and event.run != self._last.run:
            self._end()
            self._begin(event.run - 1)
        self._last = event
        if event.number % self._interval:
            return
        line = f"  Iteration {event.number}"
        if self._verbose > 1:
            now = time.perf_counter()
            line += f"\t time lapse {now - self._line_was:.5f}s\t ll change {event.change:.5f}"
            self._line_was = now
        print(line)

    def on_end(self, result: FitResult | None) -> None:
        if self._last is not None:
            self._end()

    def _begin(self, number: int) -> None:
        print(f"Initialization {number}")
        self._run_began = self._line_was = time.perf_counter()

    def _end(self) -> None:
        assert self._last is not None
        done = "converged" if abs(self._last.change) < self._tol else "did not converge"
        line = f"Initialization {done}."
        if self._verbose > 1:
            line += f" time lapse {time.perf_counter() - self._run_began:.5f}s\t lower bound "
            line += f"{self._last.step.log_likelihood:.5f}."
        print(line)
