"""What is noted about a fit on the way, and how it is told: result.json, the table at the end."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..fitting import Event, FitResult, Method, Observer, Problem, Status, Step
from ..mixture import GaussianMixture
from .scoring import Score

__all__ = ["Recorder", "Report"]

INTERRUPTED = "INTERRUPTED"
_HEAVIEST = 6


class Recorder(Observer):
    """Keeps the steps of the run that the mixture holds, also when Ctrl-C ends the fit.

    Attributes:
        steps: of the best run so far, the current one included.
        seeding: seconds before the first step, of all runs together.
    """

    def __init__(self) -> None:
        self.steps: tuple[Step, ...] = ()
        self.seeding = 0.0
        self._since = 0.0

    def on_start(self, problem: Problem, method: Method, n_init: int) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_step(self, event: Event) -> None:
        """Keep the step."""
        now = time.perf_counter()
        if event.number == 1:
            self.seeding += max(0.0, now - self._since - event.step.seconds)
        best = event.best
        if best is None or event.step.log_likelihood > best.log_likelihood:
            self.steps = event.history
        else:
            self.steps = best.history
        self._since = now

    def on_end(self, result: FitResult | None) -> None:
        """Of runs that end equally high the fit says which it kept."""
        if result is not None:
            self.steps = result.history


@dataclass(frozen=True)
class Report:
    """All that is said about a fit.

    Attributes:
        mixture: as it ended.
        recorder: what was noted on the way.
        result: of the fit; None when Ctrl-C ended it.
        score: of the mixture as it ended; None when Ctrl-C came before it was known.
        rows: how many, if the source knows.
        dtype: of the rows as they are stored.
        seconds: of everything so far.
        seed: of the fit.
        threads: that torch used.
        processes: that shared the rows.
    """

    mixture: GaussianMixture
    recorder: Recorder
    result: FitResult | None
    score: Score | None
    rows: int | None
    dtype: torch.dtype
    seconds: float
    seed: int
    threads: int
    processes: int = 1

    @property
    def status(self) -> str:
        """The name of the status."""
        return INTERRUPTED if self.result is None else self.result.status.name

    @property
    def message(self) -> str:
        """The status as a sentence."""
        if self.result is not None:
            return self.result.message
        return f"Ctrl-C ended the fit after {self.n_steps} steps: the best so far is kept"

    @property
    def n_steps(self) -> int:
        """Steps of the run that is kept."""
        return len(self.recorder.steps)

    @property
    def step_seconds(self) -> float:
        """Time of those steps."""
        return sum(step.seconds for step in self.recorder.steps)

    @property
    def log_likelihood(self) -> float:
        """Mean per row, nats: of the mixture as it ended, or as the last step found it."""
        if self.score is not None:
            return self.score.log_likelihood
        return self.recorder.steps[-1].log_likelihood

    def as_json(self, files: Sequence[str]) -> str:
        """The content of result.json; numbers that are none become null."""
        steps = self.recorder.steps
        content = {
            "status": self.status,
            "message": self.message,
            "converged": self.status == Status.CONVERGED.name,
            "log_likelihood": self.log_likelihood,
            "bic": self.score and self.score.bic,
            "aic": self.score and self.score.aic,
            "n_steps": self.n_steps,
            "rescued": sum(step.rescued for step in steps),
            "collapsed": steps[-1].collapsed if steps else 0,
            "rows": self.rows,
            "weight": self.score and self.score.weight,
            "rows_dtype": _short(self.dtype),
            "mixture": _described(self.mixture),
            "seed": self.seed,
            "seconds": {
                "total": self.seconds,
                "seeding": self.recorder.seeding,
                "steps": self.step_seconds,
            },
            "runs": list(self.result.runs) if self.result else [],
            "history": {
                "log_likelihood": [step.log_likelihood for step in steps],
                "seconds": [step.seconds for step in steps],
                "rows": [step.rows for step in steps],
                "rescued": [step.rescued for step in steps],
                "n_bytes": [step.n_bytes for step in steps],
            },
            "kernel": steps[-1].kernel if steps else None,
            "threads": self.threads,
            "processes": self.processes,
            "versions": {
                "torchgmm": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "files": list(files),
        }
        return json.dumps(_strict(content), indent=2, allow_nan=False) + "\n"

    def lines(self) -> list[tuple[str, str]]:
        """The table at the end: what, and how much."""
        steps, mixture = self.recorder.steps, self.mixture
        each = f" ({self.step_seconds / len(steps):.3g} s each)" if steps else ""
        table = [
            ("status", self.message),
            ("rows", f"{_count(self.rows)} x {mixture.n_features}, {_short(self.dtype)}"),
            ("mixture", _sentence(mixture)),
            ("steps", f"{self.n_steps} in {self.step_seconds:.3g} s{each}"),
            ("seeding", f"{self.recorder.seeding:.3g} s"),
            ("log-likelihood", f"{self.log_likelihood:.6f} nats per row"),
        ]
        if self.processes > 1 and steps:
            sent = f"{self.processes}, {steps[-1].n_bytes:,} bytes from each in the last step"
            table.insert(3, ("processes", sent))
        if self.result is not None and len(self.result.runs) > 1:
            table.append(("runs", "best of " + ", ".join(f"{run:.6f}" for run in self.result.runs)))
        if self.score is not None:
            table.append(("BIC", f"{self.score.bic:,.2f} (lower is better)"))
        rescued = sum(step.rescued for step in steps)
        collapsed = steps[-1].collapsed if steps else 0
        table.append(("components", f"{rescued} rescued, {collapsed} at the floor"))
        table.append(("heaviest", heaviest(mixture)))
        return table


def heaviest(mixture: GaussianMixture, count: int = _HEAVIEST) -> str:
    """The weights of the heaviest components, each with its number."""
    weights, order = mixture.weights.detach().sort(descending=True)
    pairs = zip(order.tolist()[:count], weights.tolist()[:count], strict=True)
    return ", ".join(f"no. {k}: {weight:.4f}" for k, weight in pairs)


def print_table(title: str, lines: Sequence[tuple[str, str]]) -> None:
    """Two columns under a title, on standard output."""
    width = max(len(name) for name, _ in lines)
    print(title)
    for name, value in lines:
        print(f"  {name:<{width}}  {value}")


def _described(mixture: GaussianMixture) -> dict[str, Any]:
    return {
        "n_components": mixture.n_components,
        "n_features": mixture.n_features,
        "covariance": mixture.covariance,
        "n_parameters": mixture.n_parameters,
        "dtype": _short(mixture.dtype),
        "device": str(mixture.device),
    }


def _sentence(mixture: GaussianMixture) -> str:
    return (
        f"{mixture.n_components} {mixture.covariance} components, {mixture.n_parameters:,} "
        f"parameters, {_short(mixture.dtype)} on {mixture.device}"
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _count(rows: int | None) -> str:
    return "?" if rows is None else f"{rows:,}"


def _strict(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
