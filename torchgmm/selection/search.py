"""`select`: many fits, one choice of the number of components and the covariance family."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import checks
from ..collective import ALONE, Group, current, together
from ..covariance import Family, as_family
from ..data import Checked, Source, as_source, spread
from ..errors import ConvergenceWarning, InputError, PeerError, TorchGMMError
from ..fitting import EM, FitResult, Method, Status, Stop, Tolerance, climbed, fit, side_by_side
from ..mixture import GaussianMixture
from ..parameters import Parameters, stacked
from ..seeding import Seeding
from .criteria import CRITERIA, Evidence, check_criterion, evidence, n_parameters
from .parts import Part
from .result import Candidate, Selection, best_of
from .starts import Sample, Split, hollow

__all__ = ["select"]

_FAMILIES = ("full", "tied", "diagonal", "spherical")
_Chains = dict[int, Parameters]  # of every fold, what the next split is of


@together
def select(
    data: Any,
    n_components: Iterable[int] = range(1, 21),
    covariance: str | Family | Sequence[str | Family] = _FAMILIES,
    criterion: str = "bic",
    *,
    method: Method | None = None,
    n_init: int = 1,
    stop: Stop | None = None,
    weights: Any = None,
    patience: int | None = 4,
    folds: int = 5,
    generator: torch.Generator | int | None = None,
    device: torch.device | str | None = None,
    on_candidate: Callable[[Candidate], None] | None = None,
) -> Selection:
    """Choose the number of components and the covariance family.

    Every fit has two starts, and the better end counts: k-means, which runs on one sample of the
    rows for all families, and the mixture of the number before with its widest component split.
    Either alone was found to miss what the other finds. Families that have a variance for every
    feature do both in units of the standard deviations, so that units do not change the choice. A
    family is left when the criterion has not improved for `patience` numbers of components in a
    row. Fits with a component that has no spread of its own in some direction are no candidates, as
    in mclust (Fraley & Raftery 2002): their likelihood is that of the floor.

    | criterion | judges | better |
    |---|---|---|
    | `bic` | likelihood less the price `log(N) / 2` of every parameter (Schwarz 1978) | lower |
    | `aic` | the same at the price 1: more components, better densities | lower |
    | `icl` | BIC less the doubt about labels (Biernacki, Celeux & Govaert 2000) | lower |
    | `held-out` | mean log-likelihood of one fold that was not fitted, nats per row | higher |
    | `cv` | its mean over all folds | higher |

    Args:
        data: rows `(N, D)`: whatever `fit` takes that can be read more than once.
        n_components: the numbers of components to try.
        covariance: the families to try.
        criterion: what decides.
        method: how fits are made; `EM(max_iter=300)` if not given.
        n_init: how many k-means starts every fit has: the first is shared, the others are drawn
            anew.
        stop: the stopping rule; `Tolerance(1e-4)` if not given, tighter than that of `fit`: N rows
            times the tolerance should be small beside differences of the criterion.
        weights: of the rows, as in `fit`; a row of weight 2 counts as two in every criterion.
        patience: numbers of components without improvement before a family is left; None tries
            all.
        folds: parts of the rows for `held-out` and `cv`.
        generator: a torch generator on the CPU or a seed.
        device: where to compute; the CPU, or where a tensor is, if not given.
        on_candidate: told about every candidate when it is known.

    Several processes search together: each fit is one of all of them.

    Returns:
        The table and the best mixture. With `held-out` and `cv` that one is fitted once more to
        all rows.

    Raises:
        InputError: data or settings that cannot be used, or no candidate could be fitted.

    Example:
        >>> import torch, torchgmm as tg
        >>> x = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
        >>> x[200:400] += 8
        >>> x[400:] -= 8
        >>> found = tg.select(x, range(1, 6), ["full", "spherical"], generator=0)
        >>> found.n_components, found.covariance
        (3, 'spherical')
        >>> found.best.means.shape
        torch.Size([3, 2])
    """
    method = EM(max_iter=300) if method is None else method
    stop = Tolerance(1e-4) if stop is None else stop
    checks.check_kind("the method", method, Method, "EM()")
    checks.check_kind("stop", stop, Stop, "Tolerance(1e-4)")
    search = _opened(data, weights, device, generator)
    search = replace(
        search,
        method=method,
        stop=stop,
        n_init=checks.check_count("n_init", n_init),
        criterion=check_criterion(criterion),
        folds=checks.check_count("folds", folds, least=2),
    )
    counts = _counts(n_components)
    if patience is not None:
        checks.check_count("patience", patience)
    sample = search.sample(max(counts))
    tried: list[Candidate] = []
    for family in _as_families(covariance):
        mine: list[Candidate] = []
        chains: _Chains = {}
        for k in counts:
            mine.append(search.candidate(k, family, sample, chains))
            if on_candidate is not None and search.group.leads:
                on_candidate(mine[-1])
            if patience is not None and _turned(mine, criterion, patience):
                break
        tried += mine
    return Selection(criterion, tuple(tried), search.final(best_of(tried, criterion)))


@dataclass(frozen=True)
class _Search:
    """What all fits share."""

    source: Source
    n_features: int
    dtype: torch.dtype
    device: torch.device
    generator: torch.Generator
    method: Method = EM()  # noqa: RUF009 - frozen
    stop: Stop = Tolerance()  # noqa: RUF009 - frozen
    n_init: int = 1
    criterion: str = "bic"
    folds: int = 5
    cut: int = 0
    group: Group = ALONE

    def checked(self, source: Source) -> Checked:
        rows = spread(source, self.group)
        return Checked(rows, checks.compute_dtype(rows.dtype, self.dtype), self.device)

    def sample(self, most: int) -> Sample:
        size = max(_SAMPLE, 256 * most)
        return Sample(self.checked(self.source).sample(size, self.generator), self.generator)

    def candidate(self, k: int, family: Family, sample: Sample, chains: _Chains) -> Candidate:
        """Fit and judge one; what cannot be fitted says why."""
        began = time.perf_counter()
        try:
            judged = self._of_all if CRITERIA[self.criterion] else self._of_others
            made = judged(k, family, sample, chains)
        except PeerError:
            raise
        except TorchGMMError as error:
            made = Candidate(k, family.name, note=str(error))
        return replace(made, seconds=time.perf_counter() - began)

    def _of_all(self, k: int, family: Family, sample: Sample, chains: _Chains) -> Candidate:
        result = self._fitted(self.source, k, family, sample, chains, 0)
        seen = evidence(self.checked(self.source), result.parameters)
        return self._described(result, seen)

    def _of_others(self, k: int, family: Family, sample: Sample, chains: _Chains) -> Candidate:
        """Fit to all folds but one, judge on that one; for `cv` each takes its turn."""
        total = rows = 0.0
        for fold in range(self.folds) if self.criterion == "cv" else range(1):
            train, test = (
                Part(self.source, fold, self.folds, inside=inside, seed=self.cut)
                for inside in (False, True)
            )
            result = self._fitted(train, k, family, sample, chains, fold)
            judged = evidence(self.checked(test), result.parameters)
            total, rows = total + judged.log_likelihood, rows + judged.rows
        seen = evidence(self.checked(train), result.parameters)
        return self._described(result, seen, total / rows)

    def _described(
        self, result: FitResult, seen: Evidence, value: float | None = None
    ) -> Candidate:
        p = result.parameters
        criteria = seen.criteria(n_parameters(p))
        return Candidate(
            p.n_components,
            p.family.name,
            value=criteria[self.criterion] if value is None else value,
            log_likelihood=seen.mean,
            n_parameters=n_parameters(p),
            bic=criteria["bic"],
            aic=criteria["aic"],
            icl=criteria["icl"],
            n_steps=result.n_steps,
            converged=result.converged,
            parameters=p,
        )

    def _fitted(
        self, source: Source, k: int, family: Family, sample: Sample, chains: _Chains, fold: int
    ) -> FitResult:
        """The best sound fit from every start."""
        if len(sample.block.x) < k:
            raise InputError(f"{len(sample.block.x)} row(s) cannot be fitted with {k} components")
        starts: list[Seeding] = [sample.centres(k, family)]
        starts += [sample.fresh(k, family) for _ in range(self.n_init - 1)]
        before = chains.get(fold)
        if before is not None and k <= 2 * before.n_components:
            starts.append(Split(before, sample.unit(family)))
        sound, why = [], ""
        for result in self._ends(source, k, family, starts):
            if isinstance(result, str):
                why = result
                continue
            bare = hollow(result.parameters, self.method.reg_covar, sample.covariance())
            if bare:
                why = f"component(s) {bare} have no spread but the floor in some direction"
                continue
            sound.append(result)
        if not sound:
            raise InputError(why)
        # a chain of splits goes on from its own last mixture, so that it stays another way to
        # the top than k-means is
        chains[fold] = sound[-1].parameters
        return max(sound, key=lambda one: one.log_likelihood)

    def _ends(
        self, source: Source, k: int, family: Family, starts: Sequence[Seeding]
    ) -> list[FitResult | str]:
        """Where each start leads, or why it leads nowhere; small fits go side by side."""
        checked, floor = self.checked(source), self.method.reg_covar
        together = len(starts) > 1 and side_by_side(checked, self.method, k, family)
        ends: list[FitResult | str] = []
        begun: list[tuple[int, Parameters]] = []
        for number, start in enumerate(starts):
            try:
                if together:
                    found = start(checked, k, family, floor, self.generator)
                    begun.append((number, found))
                    ends.append("")
                else:
                    ends.append(self._run(source, self._mixture(k, family), start))
            except ArithmeticError as error:
                ends.append(str(error))
        if begun:
            many = stacked([found for _, found in begun])
            try:
                results = climbed(checked, many, self.method, self.stop, self.generator)
            except ArithmeticError:  # of one of them: alone, the others reach their ends
                return [end for one in starts for end in self._ends(source, k, family, [one])]
            for (number, _), one in zip(begun, results, strict=True):
                ends[number] = one.message if one.status is Status.SINGULAR else one
        return ends

    def _run(self, source: Source, mixture: GaussianMixture, init: Any) -> FitResult:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the table says it of each
            return fit(
                mixture, source, self.method, init=init, stop=self.stop, generator=self.generator
            )

    def _mixture(self, k: int, family: Family) -> GaussianMixture:
        return GaussianMixture(k, self.n_features, family, dtype=self.dtype, device=self.device)

    def final(self, chosen: Candidate) -> GaussianMixture:
        """The mixture of the candidate; where rows were held out it is fitted to all of them."""
        assert chosen.parameters is not None
        mixture = GaussianMixture.from_parameters(chosen.parameters, dtype=self.dtype)
        if not CRITERIA[self.criterion]:
            self._run(self.source, mixture, chosen.parameters)
        return mixture


# rows of the shared sample at least; more components take more
_SAMPLE = 16_384


def _opened(
    data: Any, weights: Any, device: Any, generator: torch.Generator | int | None
) -> _Search:
    source = as_source(data, weights)
    if not source.replayable:
        raise InputError(
            "these rows can be read only once, but a search fits many mixtures to them: give "
            "something that can be read again, such as files or a function that makes the iterator"
        )
    group = current()
    drawn = group.same_generator(checks.as_generator(generator))
    place = data.device if isinstance(data, torch.Tensor) else torch.device("cpu")
    place = place if device is None else torch.device(device)
    rows = spread(source, group)  # a process that has none of its own learns their width
    dtype = checks.compute_dtype(rows.dtype, torch.float32)
    cut = int(torch.randint(2**62, (), generator=drawn))
    return _Search(source, rows.n_features, dtype, place, drawn, cut=cut, group=group)


def _counts(n_components: Iterable[int]) -> list[int]:
    given = [n_components] if isinstance(n_components, int) else list(n_components)
    counts = sorted({checks.check_count("n_components", k) for k in given})
    if not counts:
        raise InputError("n_components is empty: give the numbers to try, such as range(1, 21)")
    return counts


def _as_families(covariance: Any) -> list[Family]:
    given = [covariance] if isinstance(covariance, (str, Family)) else list(covariance)
    if not given:
        raise InputError("covariance is empty: give the families to try, such as ['full', 'tied']")
    return list(dict.fromkeys(as_family(one) for one in given))


def _turned(tried: list[Candidate], criterion: str, patience: int) -> bool:
    """Whether the last `patience` candidates are all worse than the best one before them."""
    sound = [c for c in tried if not c.note]
    if len(sound) <= patience:
        return False
    best = best_of(sound, criterion)
    return all(c is not best for c in sound[-patience:])
