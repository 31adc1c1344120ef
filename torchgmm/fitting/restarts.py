"""Several starts of one mixture on rows in memory, climbed side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..covariance import Family
from ..data import Groups, SharedGroups, Source
from ..mixture import GaussianMixture
from ..parameters import Parameters
from ..seeding import Seeding
from .base import Method, Problem, Status
from .batch import Batch, Run
from .batch_result import BatchResult
from .events import FitResult
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
    p = starts
    mixture = GaussianMixture(p.n_components, None, p.family, batch_shape=p.batch_shape)
    batch = Batch(mixture, method, stop, ())
    return Run(batch, Problem(rows, generator), starts, 1, 1, None).to_the_end()


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
    rows = SharedGroups(source, len(generators))
    starts = seeding.batch(rows, n_components, family, method.reg_covar, generators)
    first, same = _distinct(starts)
    found = climbed(rows.only(first), starts[first], method, stop, generators[0])
    if Status.SINGULAR in found.statuses:
        return None
    levels, best = found.levels.nan_to_num(nan=-math.inf).tolist(), 0
    for number, level in enumerate(levels):
        best = number if is_better(level, levels[best]) else best
    return dataclasses.replace(found[best], runs=tuple(found.levels[same].tolist()))


def _distinct(starts: Parameters) -> tuple[Tensor, Tensor]:
    """The first of the starts that are equal but for the order of their components, `(R',)`.

    k-means ends at the same clusters from many a start. Also which of those every start `(R,)` is.
    """
    order = starts.means[..., 0].argsort(-1)
    rows = torch.arange(len(order), device=order.device).unsqueeze(-1)
    scale = starts.scale if starts.family.tied else starts.scale[rows, order]
    parts = (t.flatten(1) for t in (starts.means[rows, order], starts.logits[rows, order], scale))
    seen: dict[bytes, int] = {}
    first: list[int] = []
    same: list[int] = []
    for number, key in enumerate(torch.cat(list(parts), -1).cpu().numpy()):
        if key.tobytes() not in seen:
            seen[key.tobytes()] = len(first)
            first.append(number)
        same.append(seen[key.tobytes()])
    return torch.tensor(first), torch.tensor(same)


def is_better(level: float, best: float) -> bool:
    """Whether a run is the better one by more than rounding: of equals the first is kept."""
    return level > best + _EQUAL * (1 + abs(best)) if math.isfinite(best) else level > best
