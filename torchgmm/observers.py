"""Observers of a fit: a progress bar, lines in a log or a JSON-lines file, TensorBoard."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import IO, Any

from .errors import MissingExtraError
from .fitting import Event, FitResult, Method, Observer, Problem, RowsEvent

__all__ = ["JsonLines", "LogLines", "Progress", "TensorBoard"]

# a step that takes longer, in seconds, gets a bar of its own
_LONG = 1.0


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
    """Bars on a terminal: one for the steps, and one for the rows of a step that takes long.

    They show rows and bytes per second and when the end is expected. Where there is no terminal, a
    plain line per step.

    Args:
        file: where to write; standard error if not given.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        self.file = file or sys.stderr
        self._bar: Any = None
        self._rows: Any = None

    def on_start(self, problem: Problem, method: Method, n_init: int) -> None:
        """Open the bar."""
        if not self.file.isatty():
            return
        self._bar = self._new_bar(total=method.max_iter * n_init, unit="step")
        self._bar.set_postfix_str("seeding")

    def on_rows(self, event: RowsEvent) -> None:
        """Move the bar of the rows, if the step takes long."""
        if self._bar is None or event.seconds < _LONG:
            return
        if self._rows is None:
            what = f"step {event.number}" if event.number else "seeding"
            self._rows = self._new_bar(
                total=event.total,
                unit="row",
                unit_scale=True,
                desc=what,
                position=1,
                leave=False,
                smoothing=0,  # the speed of the whole step: the bar itself begins later
                mininterval=0,  # it is told seldom enough
                miniters=1,
            )
            self._rows.start_t -= event.seconds
        speed = event.n_bytes / event.seconds / 1e6
        self._rows.set_postfix_str(f"{speed:,.3g} MB/s", refresh=False)
        self._rows.update(event.rows - self._rows.n)

    def on_step(self, event: Event) -> None:
        """Move the bar."""
        if self._bar is None:
            print(_line(event), file=self.file, flush=True)
            return
        self._close_rows()
        if event.n_init > 1:
            self._bar.set_description(f"run {event.run}/{event.n_init}", refresh=False)
            self._bar.n = (event.run - 1) * event.max_iter + event.number - 1
        self._bar.set_postfix_str(_figures(event), refresh=False)
        self._bar.update()

    def on_end(self, result: FitResult | None) -> None:
        """Close the bars."""
        self._close_rows()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _new_bar(self, **settings: Any) -> Any:
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise MissingExtraError("tqdm", "progress", "a progress bar") from error
        return tqdm(file=self.file, dynamic_ncols=True, **settings)

    def _close_rows(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None


class JsonLines(Observer):
    """One JSON object per step, appended to a file as it happens.

    Each has `run`, `step`, `log_likelihood` (nats per row), `change` (null at the first step),
    `rows`, `seconds`, `rows_per_second`, `rescued` and `collapsed`.

    Args:
        path: the file; older lines in it are kept.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_step(self, event: Event) -> None:
        """Append the step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_record(event)) + "\n")


class TensorBoard(Observer):
    """Scalars of every step for TensorBoard, under `fit/`.

    Args:
        to: a folder, or a writer that has `add_scalar(tag, value, step)` already.
    """

    def __init__(self, to: Any) -> None:
        self.writer = to if hasattr(to, "add_scalar") else _summary_writer(to)
        self._step = 0

    def on_step(self, event: Event) -> None:
        """Write the step; the steps of several runs follow each other."""
        self._step += 1
        for name, value in _record(event).items():
            if value is not None and name != "step":
                self.writer.add_scalar(f"fit/{name}", value, self._step)

    def on_end(self, result: FitResult | None) -> None:
        """Let nothing be lost in a buffer."""
        if hasattr(self.writer, "flush"):
            self.writer.flush()


def _summary_writer(folder: Any) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "tensorboard", "writing for TensorBoard") from error
    return SummaryWriter(folder)


def _record(event: Event) -> dict[str, float | int | None]:
    return {
        "run": event.run,
        "step": event.number,
        "log_likelihood": event.step.log_likelihood,
        "change": None if math.isinf(event.change) else event.change,
        "rows": event.rows,
        "seconds": event.step.seconds,
        "rows_per_second": event.step.rows_per_second,
        "rescued": event.step.rescued,
        "collapsed": event.step.collapsed,
    }


def _figures(event: Event) -> str:
    change = "" if math.isinf(event.change) else f", change {event.change:+.2e}"
    seconds = max(event.step.seconds, 1e-9)
    speed = f"{event.rows / seconds:,.0f} rows/s, {event.n_bytes / seconds / 1e6:,.3g} MB/s"
    return f"log-likelihood {event.step.log_likelihood:.5f}{change}, {speed}"


def _line(event: Event) -> str:
    run = f"run {event.run}/{event.n_init} " if event.n_init > 1 else ""
    return f"{run}step {event.number}/{event.max_iter}: {_figures(event)}"
