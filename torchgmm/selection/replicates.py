"""Fits of K and of K + 1 components to rows, and to many replicates of them at a time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..collective import alone
from ..covariance import Family, Floor
from ..data import ArraySource, Block
from ..errors import ConvergenceWarning, InputError, TorchGMMError
from ..fitting import EM, BatchResult, Rescue, Status, Tolerance, fit
from ..mixture import GaussianMixture
from ..mixture.drawing import draw
from ..parameters import Parameters, concatenated, stacked
from ..seeding import Seeding
from .starts import Sample, Split, hollow

__all__ = ["Ends", "Fits"]

# numbers in the rows of replicates that are fitted together: 32 MiB in float64
_TOGETHER = 2**22


@dataclass(frozen=True)
class Ends:
    """Where fits of a batch ended."""

    parameters: Parameters  # (B, ...)
    level: Tensor  # (B,) mean log-likelihood, nats; -inf where the fit is not sound

    def require_sound(self) -> None:
        """Refuse to go on without a fit that the likelihood can judge."""
        if not bool(self.level.isfinite().all()):
            k, family = self.parameters.n_components, self.parameters.family
            raise InputError(
                f"no sound fit of {k} {family.name} component(s): every one has a component "
                "without spread of its own in some direction; give fewer components, a simpler "
                "family or a larger reg_covar"
            )


@dataclass(frozen=True)
class Fits:
    """How fits are made."""

    family: Family
    floor: Floor
    n_init: int
    tol: float
    max_iter: int
    generator: torch.Generator

    def pair(self, x: Tensor, k: int, truth: Parameters | None = None) -> tuple[Ends, Ends]:
        """The best fits of K and of K + 1 components to rows `x (B, N, D)`."""
        if truth is not None:
            null = self._best(x, k, [_repeated(truth, len(x))])
        else:
            fewer = self._best(x, k - 1, []) if k > 1 else None
            null = self._best(x, k, [] if fewer is None else [self._split(x, fewer, k)])
        return null, self._best(x, k + 1, [self._split(x, null, k + 1)])

    def replicates(
        self, truth: Parameters, n_rows: int, count: int, told: Callable[[int], None] | None
    ) -> Tensor:
        """Likelihood ratios of rows drawn from a mixture, `(count,)`; NaN where a fit failed."""
        ratios: list[Tensor] = []
        for rows in _drawn(truth, n_rows, count, self.generator):
            low, high = self.pair(rows, truth.n_components, truth)
            ratios.append(2 * n_rows * (high.level - low.level))
            if told is not None:
                told(sum(map(len, ratios)))
        found = torch.cat(ratios).cpu()
        return torch.where(found.isfinite(), found, math.nan)

    def _best(self, x: Tensor, k: int, starts: list[Parameters]) -> Ends:
        """The best sound end, of each batch entry, from k-means and other starts."""
        samples = [self._sample(rows) for rows in x]
        for _ in range(self.n_init):
            centres = [sample.fresh(k, self.family) for sample in samples]
            starts = [*starts, self._started(x, k, centres)]
        n = len(starts)
        ends = self._climb(x.repeat(n, 1, 1), concatenated(starts), samples * n)
        best = ends.level.view(n, -1).argmax(0) * len(x) + torch.arange(len(x), device=x.device)
        return Ends(ends.parameters[best], ends.level[best])

    def _sample(self, rows: Tensor) -> Sample:
        return Sample(Block(rows, None, 0), self.generator)

    def _split(self, x: Tensor, ends: Ends, k: int) -> Parameters:
        units = [self._sample(rows).unit(self.family) for rows in x]
        splits = [Split(ends.parameters[b], unit) for b, unit in enumerate(units)]
        return self._started(x, k, splits)

    def _started(self, x: Tensor, k: int, seedings: list[Any]) -> Parameters:
        made = (
            self._start(ArraySource(rows), k, seeding)
            for rows, seeding in zip(x, seedings, strict=True)
        )
        return stacked(list(made))

    def _start(self, source: ArraySource, k: int, seeding: Seeding) -> Parameters:
        try:
            return seeding(source, k, self.family, self.floor, self.generator)
        except (TorchGMMError, ArithmeticError):  # a start that is none: never the best end
            d = source.n_features
            device = source.first().x.device
            nothing = torch.full((k, d), math.nan, dtype=torch.float64, device=device)
            scale = nothing.new_full(self.family.scale_shape(k, d), math.nan)
            return Parameters(nothing[:, 0], nothing, scale, self.family)

    def _climb(self, x: Tensor, start: Parameters, samples: list[Sample]) -> Ends:
        """All fits together, as one batch of mixtures."""
        level = x.new_full((len(x),), -math.inf)
        sound = start.means.isfinite().flatten(1).all(1).nonzero().flatten()
        if not len(sound):
            return Ends(start, level)
        k, d = start.means.shape[1:]
        mixture = GaussianMixture(
            k, d, self.family, batch_shape=(len(sound),), dtype=x.dtype, device=x.device
        )
        # replaced components would be other fits than those that the test is about
        as_it_is = Rescue(empty="keep", collapsed="keep")
        method = EM(self.max_iter, reg_covar=self.floor, rescue=as_it_is)
        with warnings.catch_warnings(), alone():  # every process makes the whole test
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = fit(mixture, x[sound], method, init=start[sound], stop=Tolerance(self.tol))
        assert isinstance(result, BatchResult)
        ends = start.put(sound, result.parameters)
        levels, statuses = result.levels.tolist(), result.statuses
        for b, own, status in zip(sound.tolist(), levels, statuses, strict=True):
            failed = status in (Status.SINGULAR, Status.DIVERGED)
            if not failed and not hollow(ends[b], self.floor, samples[b].covariance()):
                level[b] = own
        return Ends(ends, level)


def _drawn(
    truth: Parameters, n_rows: int, count: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Replicates `(B, N, D)`, some at a time."""
    at_once = max(1, _TOGETHER // (n_rows * truth.n_features))
    own = truth.to(device=torch.device("cpu"))
    for start in range(0, count, at_once):
        size = min(at_once, count - start)
        rows = torch.stack([draw(own, n_rows, generator)[0] for _ in range(size)])
        yield rows.to(truth.means.device)


def _repeated(p: Parameters, count: int) -> Parameters:
    return p.map(lambda t: t.expand(count, *t.shape))
