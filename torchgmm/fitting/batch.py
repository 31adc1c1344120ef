"""A fit of many mixtures at once: each has its own end, and those that are done leave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import checks
from ..collective import current
from ..data import Groups, as_groups
from ..errors import InputError
from ..kernels import full_precision
from ..mixture import GaussianMixture
from ..parameters import Parameters, filled_up
from ..seeding import Seeding, Start
from .base import Method, Problem
from .batch_result import BatchResult, better, joined
from .events import Observer, Resumption
from .going_on import ends_of, gone_on
from .run import Run
from .stopping import Stop

__all__ = ["Batch"]

# Bytes of the moments or parameters of the mixtures that climb together; about ten such stand.
_STATISTICS = 8 * 2**20


@dataclass(frozen=True)
class Batch:
    """Fits a batch of mixtures, with the steps that fit one.

    Args:
        mixture: changed in place.
        method: how steps are made.
        stop: the rule, which every mixture meets by itself.
        observers: told about steps of all together.
    """

    mixture: GaussianMixture
    method: Method
    stop: Stop
    observers: tuple[Observer, ...]

    def open(self, data: Any, weights: Any, labels: Any, encoder: Any) -> Groups:
        """The rows, with as many as each mixture needs."""
        own = self.mixture
        if current().size > 1:
            raise InputError(
                "a batch of mixtures is fitted by one process: let each fit its own, inside "
                "`with torchgmm.alone():`"
            )
        if isinstance(data, torch.Tensor) and data.device.type not in ("cpu", own.device.type):
            raise InputError(f"rows are on {data.device}, the mixture on {own.device}: move one")
        rows = as_groups(
            data,
            own.batch_shape,
            own.dtype,
            own.device,
            weights=weights,
            labels=labels,
            encoder=encoder,
        )
        if own.n_features is not None:
            checks.check_rows((1, rows.n_features), own.n_features)
        needed = (own.logits.detach() > -math.inf).reshape(-1, own.n_components).sum(-1).cpu()
        few = (rows.counts >= 0) & (rows.counts < needed)
        if bool(few.any()):
            g = int(few.nonzero()[0])
            raise InputError(
                f"{int(few.sum())} mixture(s) have fewer rows than components, the first is number "
                f"{g} with {int(rows.counts[g])} row(s) for n_components={int(needed[g])}: give "
                "more rows or fewer components"
            )
        return rows

    def fit(
        self,
        rows: Groups,
        seeding: Seeding,
        n_init: int,
        generator: torch.Generator,
        resume: Resumption | None = None,
    ) -> BatchResult:
        """The best of `n_init` runs of every mixture, or what is left of them."""
        mixture = self.mixture
        if n_init > 1 and isinstance(seeding, Start):
            raise InputError(f"n_init={n_init} runs from one and the same start would all be equal")
        problem = Problem(rows, generator)
        mixture.materialize(rows.n_features)
        for observer in self.observers:
            observer.on_start(problem, self.method, n_init)
        done, best, left = gone_on(
            resume, self.mixture, self.method, rows, self._parts(rows), generator
        )
        run: Run | None = None
        try:
            with full_precision(mixture.device):
                for part in self._parts(rows)[len(done) :]:
                    some, seeds = rows.only(part), seeding.only(part)
                    for number in range(1 if left is None else left.run, n_init + 1):
                        if left is None:
                            start = self._start(some, part, seeds, generator)
                        else:
                            start = ends_of(left).found
                        own = Problem(some, generator)
                        run = Run(
                            own,
                            start,
                            self.method,
                            self.stop,
                            self.observers,
                            shape=tuple(mixture.batch_shape),
                            number=number,
                            n_init=n_init,
                            best=best,
                            done=tuple(done),
                            resume=left,
                        )
                        best, left = better(best, run.to_the_end()), None
                        run = None
                    assert best is not None
                    done.append(best)
                    best = None
        except BaseException:
            cut = best if run is None else better(best, run.result())
            kept = done if cut is None else [*done, cut]
            self._assign_first(kept)
            for observer in self.observers:
                observer.on_end(None)
            raise
        result = joined(done, tuple(mixture.batch_shape))
        self._assign(result.parameters)
        for observer in self.observers:
            observer.on_end(result)
        return result

    def _parts(self, rows: Groups) -> Sequence[torch.Tensor]:
        """Numbers of the mixtures that climb together."""
        return torch.split(torch.arange(rows.n_groups), self._at_once(rows))

    def _at_once(self, rows: Groups) -> int:
        """How many mixtures climb together: statistics of more would leave the budget.

        All, where rows come from a disk or a stream: a pass then costs more than anything.
        """
        if rows.reads:
            return rows.n_groups
        own = self.mixture
        k, d = own.n_components, rows.n_features
        numbers = math.prod(own.family.scale_shape(k, d)) + k * (d + 1)
        return max(1, _STATISTICS // (8 * numbers))

    def _start(
        self, rows: Groups, part: torch.Tensor, seeding: Seeding, generator: torch.Generator
    ) -> Parameters:
        """Where a run begins; mixtures with fewer components than others are seeded with theirs."""
        own, floor = self.mixture, self.method.reg_covar
        present = (own.logits.detach() > -math.inf).reshape(-1, own.n_components).sum(-1).cpu()
        present = present[part]
        most = own.n_components
        if isinstance(seeding, Start) or bool((present == most).all()):
            return seeding.batch(rows, most, own.family, floor, generator)
        found: Parameters | None = None
        for k in sorted(set(present.tolist())):
            where = (present == k).nonzero().flatten()
            some = seeding.batch(rows.only(where), k, own.family, floor, generator)
            some = filled_up(some, most)
            if found is None:
                found = some[torch.zeros(len(present), dtype=torch.int64)]
            found = found.put(where.to(found.means.device), some)
        assert found is not None
        return found

    def _assign_first(self, kept: list[BatchResult]) -> None:
        """Keep what was found of the first mixtures; the others stay as they were."""
        if not kept:
            return
        found = joined(kept, ()).parameters
        flat = self.mixture.as_parameters(torch.float64).map(torch.Tensor.detach).flat()
        first = torch.arange(len(found.means), device=flat.means.device)
        self._assign(flat.put(first, found))

    def _assign(self, flat: Parameters) -> None:
        self.mixture.assign(flat.shaped(self.mixture.batch_shape))
