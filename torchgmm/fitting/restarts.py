"""Several starts of one mixture on rows in memory, climbed side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..covariance import Family
from ..data import Groups, SharedGroups, Source
from ..errors import SingularCovarianceError
from ..parameters import Parameters
from ..seeding import Seeding, distinct
from .base import Method, Problem, Status
from .batch_result import BatchResult
from .climb import Begun, Climb
from .events import FitResult
from .run import Run
from .stopping import Stop

__all__ = ["best_of", "climbed", "is_better", "side_by_side"]

# Steps on more than so many numbers are all arithmetic, and gain nothing from company. And a
# seeding sees no other rows than that of a single run.
_MOST, _MOST_ROWS = 2**24, 16_384
# What other sums of float32 rows may change of a mean log-likelihood.
_EQUAL = 1e-7


def side_by_side(source: Source, method: Method, n_components: int, family: Family) -> bool:
    """Whether several runs gain from being one batch: they are small, and nobody watches."""
    if not method.takes_batches or source.group.size > 1 or source.reads or not source.stable:
        return False
    if source.n_rows is None or source.n_rows > _MOST_ROWS:
        return False
    numbers: int = source.n_rows * n_components * source.n_features**family.n_axes
    return numbers <= _MOST


def climbed(
    source: Source, starts: Parameters, method: Method, stop: Stop, generator: torch.Generator
) -> BatchResult:
    """The end of every start `(R, ...)` on the same rows."""
    rows = source if isinstance(source, Groups) else SharedGroups(source, len(starts.means))
    shape = tuple(starts.batch_shape)
    return Run(Problem(rows, generator), starts, method, stop, shape=shape).to_the_end()


def best_of(
    source: Source,
    seeding: Seeding,
    n_components: int,
    family: Family,
    method: Method,
    stop: Stop,
    generators: Sequence[torch.Generator],
) -> FitResult | None:
    """The best of runs from a start of each generator; None if one has no answer of its own."""
    rows = SharedGroups(source, len(generators), runs=True)
    starts = seeding.batch(rows, n_components, family, method.reg_covar, generators)
    first, same = distinct(_described(starts))
    run = Run(Problem(rows.only(first), generators[0]), starts[first], method, stop)
    run.until_left(1)
    last, found = run.climbing, run.result()
    if Status.SINGULAR in found.statuses:
        return None
    levels = found.levels.tolist()
    ends: dict[int, FitResult] = {}
    try:
        for number in last:  # by itself it takes less
            ends[number] = _alone(source, found[number], method, stop, generators[0])
            levels[number] = ends[number].log_likelihood
    except SingularCovarianceError:
        return None
    best = 0
    for number, level in enumerate(levels):
        best = number if is_better(level, levels[best]) else best
    end = ends[best] if best in ends else found[best]
    return dataclasses.replace(end, runs=tuple(levels[place] for place in same.tolist()))


def _alone(
    source: Source, so_far: FitResult, method: Method, stop: Stop, generator: torch.Generator
) -> FitResult:
    """The end of one run, from where it has come."""
    climb = Climb(Problem(source, generator), method, stop, (), 1)
    return climb.to_the_end(Begun(so_far.state, so_far.history))


def _described(p: Parameters) -> Tensor:
    """All numbers of every component, `(R, K, F)`; its mean first."""
    scale = p.scale.expand(*p.means.shape[:2], *p.scale.shape[2:]).flatten(2)
    return torch.cat([p.means, p.logits.unsqueeze(-1), scale], -1)


def is_better(level: float, best: float) -> bool:
    """Whether a run is the better one by more than rounding: of equals the first is kept.

    One that diverged at its first step, whose level is NaN, is below all others.
    """
    if math.isnan(best):
        return level > -math.inf
    return level > best + _EQUAL * (1 + abs(best)) if math.isfinite(best) else level > best
