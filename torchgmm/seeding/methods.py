"""First parameters drawn from rows: k-means, k-means++, random rows, random responsibilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..covariance import Family, Floor, floor_of
from ..data import Block, Groups, Source, uniform
from ..kernels import weighted_sums
from ..kmeans import clustered, kmeans_plus_plus
from ..moments import Moments
from ..parameters import Parameters
from .base import Generators, Seeding, one_each
from .sums import all_rows, at_centres, drawn, first_parameters, nearest_sums, rows_before

__all__ = ["KMeans", "KMeansPlusPlus", "RandomResponsibilities", "RandomRows"]

# rows at a time where responsibilities are made on the way: memory O(rows * K)
_CHUNK = 8192


@dataclass(frozen=True)
class KMeans(Seeding):
    """Lloyd's k-means from k-means++, on a sample; then one pass over all rows for the moments.

    Args:
        max_rows: size of the sample; `max(256 K, 16384)` if not given.
        max_iter: most Lloyd steps.
        tol: stop when the centres move less than this times the mean variance (as scikit-learn).
    """

    max_rows: int | None = None
    max_iter: int = 100
    tol: float = 1e-4
    lloyd: ClassVar[bool] = True

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: torch.Generator,
    ) -> Parameters:
        block = drawn(source, self._sample_rows(n_components), n_components, generator)
        # by the memory of a device chunks have their size, by that sums their last digits
        centres = source.group.of_first(self._centres(block, n_components, generator))
        sums = nearest_sums(all_rows(source, block), centres, family).over(source.group)
        return first_parameters(sums.moments(), family, floor, sums.unit)

    def batch(
        self,
        source: Groups,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: Generators,
    ) -> Parameters:
        if type(self).__call__ is not KMeans.__call__:  # another start than this makes
            return super().batch(source, n_components, family, floor, generator)
        found: Tensor | None = None
        one = one_each(generator, source.n_groups)[0]
        for block in source.samples(self._sample_rows(n_components), one):
            assert block.groups is not None
            own = generator
            if not isinstance(own, torch.Generator):
                own = [own[g] for g in block.groups.tolist()]
            centres = self._centres(block, n_components, own)
            if found is None:
                found = centres.new_empty(source.n_groups, *centres.shape[1:])
            found[block.groups.to(found.device)] = centres
        assert found is not None
        return at_centres(source, found, family, floor)

    def _centres(self, block: Block, n_components: int, generator: Generators) -> Tensor:
        """Centres `(*B, K, D)` of the sampled rows `(*B, n, D)`."""
        given = (block.x, block.w, n_components, generator)
        if not self.lloyd:
            return kmeans_plus_plus(*given)
        return clustered(*given, max_iter=self.max_iter, tol=self.tol)

    def _sample_rows(self, n_components: int) -> int:
        return max(self.max_rows or max(256 * n_components, 16_384), n_components)


@dataclass(frozen=True)
class KMeansPlusPlus(KMeans):
    """Only the spread-out centres of k-means++ (Arthur & Vassilvitskii 2007), no Lloyd steps."""

    lloyd: ClassVar[bool] = False


@dataclass(frozen=True)
class RandomRows(Seeding):
    """Means at random rows, equal weights, one spread for all.

    The spread is that of the rows about their nearest mean.
    """

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: torch.Generator,
    ) -> Parameters:
        size = n_components if source.replayable else max(_CHUNK, n_components)
        block = drawn(source, size, n_components, generator)
        chosen = torch.randperm(len(block.x), generator=generator)[:n_components]
        centres = block.take(chosen).x.double()
        sums = nearest_sums(all_rows(source, block), centres, family).over(source.group)
        moments = sums.moments()
        pooled = family.pooled(moments) / moments.weight.sum(-1)
        counts = torch.full_like(moments.weight, float(moments.rows) / n_components)
        heads = counts.sum(-1, keepdim=True) if family.tied else counts
        second = heads.reshape(*heads.shape, *[1] * family.n_axes) * pooled
        equal = Moments(
            counts,
            torch.zeros_like(moments.first),
            second,
            moments.log_prob,
            moments.rows,
            moments.frame,
        )
        return first_parameters(equal, family, floor_of(floor, moments, family))


@dataclass(frozen=True)
class RandomResponsibilities(Seeding):
    """Every row belongs to every component by a random amount: a start without any geometry.

    The amount depends on the seed and on how many rows of positive weight come before, so that
    many processes draw as one does.
    """

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: torch.Generator,
    ) -> Parameters:
        size = max(_CHUNK, n_components)
        block = drawn(source, size, n_components, generator)
        frame = block.x.double().mean(0, keepdim=True).expand(n_components, -1).contiguous()

        seed = int(torch.randint(2**62, (), generator=generator))
        before = rows_before(source, block)

        def draw(part: Block) -> Tensor:
            nonlocal before
            numbers = torch.arange(before, before + len(part.x))
            before += len(part.x)
            r = uniform(numbers, n_components, seed)
            return r / r.sum(0)

        sums = weighted_sums(all_rows(source, block), frame, family, draw).over(source.group)
        return first_parameters(sums.moments(), family, floor, sums.unit)
