"""How every candidate of a search is fitted and judged."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import checks
from ..collective import ALONE, Group, current
from ..covariance import Family
from ..data import Checked, Source, as_source, spread
from ..errors import ConvergenceWarning, InputError, PeerError, TorchGMMError
from ..fitting import EM, FitResult, Method, Status, Stop, Tolerance, climbed, fit, side_by_side
from ..mixture import GaussianMixture
from ..mixture.reading import check_replay
from ..parameters import Parameters, stacked
from ..seeding import Seeding, brought, near
from .criteria import CRITERIA, Evidence, evidence, n_parameters
from .parts import Part
from .result import Candidate
from .starts import Sample, Split, hollow

__all__ = ["Chains", "Search", "opened"]

Chains = dict[int, Parameters]  # of every fold, what the next split is of
# rows of the shared sample at least; more components take more
_SAMPLE = 16_384


@dataclass(frozen=True)
class Search:
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
        dtype = checks.compute_dtype(rows.dtype, self.dtype, self.device)
        return Checked(rows, dtype, self.device)

    def sample(self, most: int) -> Sample:
        size = max(_SAMPLE, 256 * most)
        some = self.checked(self.source).sample(size, self.generator)
        return Sample(brought(some), self.generator)

    def candidate(self, k: int, family: Family, sample: Sample, chains: Chains) -> Candidate:
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

    def _of_all(self, k: int, family: Family, sample: Sample, chains: Chains) -> Candidate:
        result = self._fitted(self.source, k, family, sample, chains, 0)
        seen = evidence(self.checked(self.source), result.parameters)
        return self._described(result, seen)

    def _of_others(self, k: int, family: Family, sample: Sample, chains: Chains) -> Candidate:
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
        self, source: Source, k: int, family: Family, sample: Sample, chains: Chains, fold: int
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
                    seeding = near(start, self.device)
                    found = seeding(checked, k, family, floor, self.generator)
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
        found = chosen.parameters.to(self.dtype, self.device)
        mixture = GaussianMixture.from_parameters(found)
        if not CRITERIA[self.criterion]:
            self._run(self.source, mixture, chosen.parameters)
        return mixture


def opened(data: Any, weights: Any, device: Any, generator: torch.Generator | int | None) -> Search:
    """A search of rows that can be read again and again."""
    source = as_source(data, weights)
    check_replay(source, "a search fits many mixtures to them")
    group = current()
    drawn = group.same_generator(checks.as_generator(generator))
    place = checks.place_of(data, device)
    rows = spread(source, group)  # a process that has none of its own learns their width
    dtype = checks.compute_dtype(rows.dtype, torch.float32, place)
    cut = int(torch.randint(2**62, (), generator=drawn))
    return Search(source, rows.n_features, dtype, place, drawn, cut=cut, group=group)
