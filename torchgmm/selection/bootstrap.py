"""K components or K + 1? The likelihood ratio beside those of rows drawn from K components.

Twice the gain in log-likelihood has no chi-squared law here: under K components the parameters of
one more are not identified. McLachlan (1987, Applied Statistics 36) draws the law instead: as many
rows from the fitted mixture of K, both fits again, and so on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..collective import alone
from ..covariance import Family, as_family
from ..data import ArraySource, Block, Checked, as_source
from ..data.base import join
from ..errors import ConvergenceWarning, InputError, TorchGMMError
from ..fitting import EM, BatchResult, Rescue, Status, Tolerance, fit
from ..mixture import GaussianMixture
from ..mixture.drawing import draw
from ..parameters import Parameters
from ..seeding import Seeding
from .starts import Sample, Split, hollow

__all__ = ["BootstrapTest", "bootstrap_test"]

# numbers in the rows of replicates that are fitted together: 32 MiB in float64
_TOGETHER = 2**22


@dataclass(frozen=True)
class BootstrapTest:
    """What a bootstrap test of K against K + 1 components found.

    Attributes:
        statistic: `2 (log L_(K+1) - log L_K)` of the rows, nats.
        replicates: the same of rows drawn from the mixture of K, `(R,)`; NaN where no sound fit of
            K + 1 components was found.
        null: the mixture of K.
        alternative: the mixture of K + 1.
    """

    statistic: float
    replicates: Tensor
    null: GaussianMixture
    alternative: GaussianMixture

    @property
    def p_value(self) -> float:
        """`(1 + number of replicates of at least the statistic) / (1 + R)`, of the sound ones."""
        sound = self.replicates[~self.replicates.isnan()]
        return (1 + int((sound >= self.statistic).sum())) / (1 + len(sound))

    def __str__(self) -> str:
        """The verdict in a line."""
        k = self.null.n_components
        return (
            f"{k} against {k + 1} {self.null.covariance} components: likelihood ratio "
            f"{self.statistic:.4g}, p = {self.p_value:.3g} by {len(self.replicates)} replicates"
        )


@torch.no_grad()
def bootstrap_test(
    data: Any,
    n_components: int,
    covariance: str | Family = "full",
    *,
    n_replicates: int = 99,
    n_init: int = 2,
    reg_covar: float = 1e-6,
    tol: float = 1e-5,
    max_iter: int = 300,
    generator: torch.Generator | int | None = None,
    device: torch.device | str | None = None,
    on_replicates: Callable[[int], None] | None = None,
) -> BootstrapTest:
    """Test K components against K + 1 by the bootstrap likelihood ratio (McLachlan 1987).

    To choose K, test 1, 2, ... until a p-value is above the level (as mclust's
    `mclustBootstrapLRT`). With R replicates no p-value is below `1 / (R + 1)`.

    Both mixtures have `n_init` k-means starts and a split of the next smaller one, and those of a
    replicate the mixture that it was drawn from as well; ends with a component without spread of
    its own are left out, as in `select`. Replicates are fitted many at a time, as one batch. The
    rows are held in memory, and those of a replicate too.

    Args:
        data: rows `(N, D)`, whatever `select` takes, but in float64 and without weights.
        n_components: K of the hypothesis.
        covariance: the family of both mixtures.
        n_replicates: R.
        n_init: k-means starts of every fit.
        reg_covar: as in `EM`.
        tol: a fit ends when a step raises its log-likelihood per row by less, in nats; N times
            this should be small beside 1.
        max_iter: most steps of a fit.
        generator: a torch generator on the CPU or a seed.
        device: where to compute; the CPU, or where a tensor is, if not given.
        on_replicates: told how many replicates are done.

    Raises:
        InputError: data or settings that cannot be used; no sound fit of K or K + 1 components;
            more than half of the replicates without one.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(1))
        >>> x[150:] += 5
        >>> tests = [tg.bootstrap_test(x, k, n_replicates=19, generator=0) for k in (1, 2)]
        >>> tests[0].p_value, tests[1].p_value > 0.05
        (0.05, True)
    """
    checks.check_count("n_replicates", n_replicates)
    k = checks.check_count("n_components", n_components)
    checks.check_floor(reg_covar)
    fits = _Fits(
        as_family(covariance),
        reg_covar,
        checks.check_count("n_init", n_init),
        tol,
        checks.check_count("max_iter", max_iter),
        checks.as_generator(generator),
    )
    x = _in_memory(data, device)
    if len(x) < 2 * (k + 1):
        raise InputError(f"{len(x)} row(s) are too few for a test of {k} against {k + 1}")
    null, alternative = fits.pair(x.unsqueeze(0), k)
    for found in (null, alternative):
        found.require_sound()
    replicates = fits.replicates(null.parameters[0], len(x), n_replicates, on_replicates)
    failed = int(replicates.isnan().sum())
    if 2 * failed > n_replicates:
        raise InputError(
            f"{failed} of {n_replicates} replicates have no sound fit: give a simpler family, "
            "fewer components or a larger reg_covar"
        )
    statistic = float(2 * len(x) * (alternative.level - null.level))
    made = (GaussianMixture.from_parameters(p.parameters[0]) for p in (null, alternative))
    return BootstrapTest(statistic, replicates, *made)


@dataclass(frozen=True)
class _Ends:
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
class _Fits:
    """How fits are made."""

    family: Family
    floor: float
    n_init: int
    tol: float
    max_iter: int
    generator: torch.Generator

    def pair(self, x: Tensor, k: int, truth: Parameters | None = None) -> tuple[_Ends, _Ends]:
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

    def _best(self, x: Tensor, k: int, starts: list[Parameters]) -> _Ends:
        """The best sound end, of each batch entry, from k-means and other starts."""
        samples = [self._sample(rows) for rows in x]
        for _ in range(self.n_init):
            centres = [sample.fresh(k, self.family) for sample in samples]
            starts = [*starts, self._started(x, k, centres)]
        n = len(starts)
        ends = self._climb(x.repeat(n, 1, 1), _joined(starts), samples * n)
        best = ends.level.view(n, -1).argmax(0) * len(x) + torch.arange(len(x), device=x.device)
        return _Ends(ends.parameters[best], ends.level[best])

    def _sample(self, rows: Tensor) -> Sample:
        return Sample(Block(rows, None, 0), self.generator)

    def _split(self, x: Tensor, ends: _Ends, k: int) -> Parameters:
        units = [self._sample(rows).unit(self.family) for rows in x]
        splits = [Split(ends.parameters[b], unit) for b, unit in enumerate(units)]
        return self._started(x, k, splits)

    def _started(self, x: Tensor, k: int, seedings: list[Any]) -> Parameters:
        made = (
            self._start(ArraySource(rows), k, seeding)
            for rows, seeding in zip(x, seedings, strict=True)
        )
        return _joined([p.map(lambda t: t.unsqueeze(0)) for p in made])

    def _start(self, source: ArraySource, k: int, seeding: Seeding) -> Parameters:
        try:
            return seeding(source, k, self.family, self.floor, self.generator)
        except (TorchGMMError, ArithmeticError):  # a start that is none: never the best end
            d = source.n_features
            device = source.first().x.device
            nothing = torch.full((k, d), math.nan, dtype=torch.float64, device=device)
            scale = nothing.new_full(self.family.scale_shape(k, d), math.nan)
            return Parameters(nothing[:, 0], nothing, scale, self.family)

    def _climb(self, x: Tensor, start: Parameters, samples: list[Sample]) -> _Ends:
        """All fits together, as one batch of mixtures."""
        level = x.new_full((len(x),), -math.inf)
        sound = start.means.isfinite().flatten(1).all(1).nonzero().flatten()
        if not len(sound):
            return _Ends(start, level)
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
        return _Ends(ends, level)


def _in_memory(data: Any, device: Any) -> Tensor:
    """All rows, `(N, D)` float64."""
    source = as_source(data)
    place = data.device if isinstance(data, Tensor) else torch.device("cpu")
    place = place if device is None else torch.device(device)
    blocks = list(Checked(source, torch.float64, place).blocks())
    if not blocks:
        raise InputError("the source gave no rows")
    if any(block.w is not None for block in blocks):
        raise InputError(
            "a bootstrap draws as many rows as there are, and weights leave that number open: "
            "give rows without weights"
        )
    return join(blocks).x


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


def _joined(parts: list[Parameters]) -> Parameters:
    return Parameters(
        torch.cat([p.logits for p in parts]),
        torch.cat([p.means for p in parts]),
        torch.cat([p.scale for p in parts]),
        parts[0].family,
    )
