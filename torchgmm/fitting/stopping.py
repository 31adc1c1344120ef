"""When a fit has converged: rules on the sequence of mean log-likelihoods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..checks import check_count, check_real
from ..errors import InputError

__all__ = ["Aitken", "RelativeTolerance", "Stop", "Tolerance"]


class Stop(ABC):
    """A stopping rule. Fields are its configuration."""

    tol: float
    patience: int
    _elementwise: ClassVar[bool] = False  # whether `met_at` takes rows of many mixtures

    def __post_init__(self) -> None:
        check_count("patience", self.patience)
        check_real("tol", self.tol)
        if not self.tol >= 0:
            raise InputError(f"tol must be at least 0, got {self.tol}")

    @abstractmethod
    def met_at(self, history: Sequence[float]) -> bool:
        """Whether the last entries of the mean log-likelihoods (nats per row) look converged."""

    def met(self, history: Sequence[float]) -> bool:
        """Whether the rule has held for the last `patience` steps."""
        ends = range(len(history), len(history) - self.patience, -1)
        return all(end >= 2 and self.met_at(history[:end]) for end in ends)

    def met_each(self, history: np.ndarray) -> np.ndarray:
        """`met` for several mixtures: their histories are the columns `(T, B)`."""
        if type(self).met is Stop.met and self._elementwise:
            if len(history) <= self.patience:
                return np.zeros(history.shape[1], bool)
            met = np.ones(history.shape[1], bool)
            for end in range(len(history), len(history) - self.patience, -1):
                met &= self.met_at(history[:end])  # type: ignore[arg-type]
            return met
        return np.array([self.met(column) for column in history.T.tolist()], bool)


@dataclass(frozen=True)
class Tolerance(Stop):
    """`|l_t - l_(t-1)| < tol`, the mean log-likelihood per row in nats, as scikit-learn.

    Args:
        tol: nats per row.
        patience: for how many steps in a row.
    """

    tol: float = 1e-3
    patience: int = 1
    _elementwise: ClassVar[bool] = True

    def met_at(self, history: Sequence[float]) -> bool:
        return abs(history[-1] - history[-2]) < self.tol


@dataclass(frozen=True)
class RelativeTolerance(Stop):
    """`|l_t - l_(t-1)| < tol |l_t|`, as R's mclust.

    Args:
        tol: relative change.
        patience: for how many steps in a row.
    """

    tol: float = 1e-5
    patience: int = 1
    _elementwise: ClassVar[bool] = True

    def met_at(self, history: Sequence[float]) -> bool:
        return abs(history[-1] - history[-2]) < self.tol * abs(history[-1])


@dataclass(frozen=True)
class Aitken(Stop):
    """Stops when the limit that Aitken's acceleration foresees is less than `tol` away.

    With `a = (l_t - l_(t-1)) / (l_(t-1) - l_(t-2))`, the limit is
    `l_(t-1) + (l_t - l_(t-1)) / (1 - a)` (Boehning et al. 1994). Slow but steady progress, which
    a plain tolerance takes for convergence, does not stop it.

    Args:
        tol: nats per row.
        patience: for how many steps in a row.
    """

    tol: float = 1e-3
    patience: int = 1

    def met_at(self, history: Sequence[float]) -> bool:
        if len(history) < 3:
            return False
        before, last = history[-2] - history[-3], history[-1] - history[-2]
        if abs(last) <= 1e-14 * abs(history[-1]):
            return True  # at rest to rounding; the ratio would be noise
        if before == 0:
            return False
        rate = last / before
        return 0 <= rate < 1 and abs(last * rate / (1 - rate)) < self.tol
