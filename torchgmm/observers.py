"""Observers of a fit: a progress bar, lines in a log."""

from __future__ import annotations

import logging
import math
import sys
from typing import IO, Any

from .errors import MissingExtraError
from .fitting import Event, FitResult, Method, Observer, Problem

__all__ = ["LogLines", "Progress"]


class LogLines(Observer):
    """One line per step to a logger.

    Args:
        logger: `logging.getLogger("torchgmm")` if not given.
        every: only every so many steps.
    """

    def __init__(self, logger: logging.Logger | None = None, every: int = 1) -> None:
        self.logger = logger or logging.getLogger("torchgmm")
        self.every = every

    def on_step(self, event: Event) -> None:
        """Log the step."""
        if event.number % self.every == 0:
            self.logger.info(_line(event))

    def on_end(self, result: FitResult | None) -> None:
        """Log how it went."""
        if result is not None:
            self.logger.info("%s", result)


class Progress(Observer):
    """A progress bar on a terminal; where there is none, a plain line per step.

    Args:
        file: where to write; standard error if not given.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        self.file = file or sys.stderr
        self._bar: Any = None

    def on_start(self, problem: Problem, method: Method, n_init: int) -> None:
        """Open the bar."""
        if not self.file.isatty():
            return
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise MissingExtraError("tqdm", "progress", "a progress bar") from error
        self._bar = tqdm(
            total=method.max_iter * n_init, unit="step", file=self.file, dynamic_ncols=True
        )
        self._bar.set_postfix_str("seeding")

    def on_step(self, event: Event) -> None:
        """Move the bar."""
        if self._bar is None:
            print(_line(event), file=self.file, flush=True)
            return
        if event.n_init > 1:
            self._bar.set_description(f"run {event.run}/{event.n_init}", refresh=False)
            self._bar.n = (event.run - 1) * event.max_iter + event.number - 1
        self._bar.set_postfix_str(_figures(event), refresh=False)
        self._bar.update()

    def on_end(self, result: FitResult | None) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _figures(event: Event) -> str:
    change = "" if math.isinf(event.change) else f", change {event.change:+.2e}"
    rate = event.rows / max(event.step.seconds, 1e-9)
    return f"log-likelihood {event.step.log_likelihood:.5f}{change}, {rate:,.0f} rows/s"


def _line(event: Event) -> str:
    run = f"run {event.run}/{event.n_init} " if event.n_init > 1 else ""
    return f"{run}step {event.number}/{event.max_iter}: {_figures(event)}"
