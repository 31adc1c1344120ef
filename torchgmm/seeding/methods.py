"""First parameters from rows: k-means, k-means++, random rows, random responsibilities, labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..covariance import Family
from ..data import Block, Groups, Source, uniform
from ..errors import InputError
from ..kernels import labelled_sums, weighted_sums
from ..kmeans import kmeans, kmeans_plus_plus
from ..moments import Moments
from ..parameters import Parameters, from_moments, stacked
from .base import Generators, Seeding, one_each
from .sums import all_rows, at_centres, drawn, first_parameters, nearest_sums, rows_before

__all__ = [
    "KMeans",
    "KMeansPlusPlus",
    "Labels",
    "RandomResponsibilities",
    "RandomRows",
    "Start",
    "as_seeding",
]

# rows at a time where responsibilities or labels are made on the way: memory O(rows * K)
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
        floor: float,
        generator: torch.Generator,
    ) -> Parameters:
        block = drawn(source, self._sample_rows(n_components), n_components, generator)
        centres = kmeans_plus_plus(block.x, block.w, n_components, generator)
        if self.lloyd:
            centres = kmeans(block.x, block.w, centres, max_iter=self.max_iter, tol=self.tol)
        sums = nearest_sums(all_rows(source, block), centres, family).over(source.group)
        return first_parameters(sums.moments(), family, floor, sums.unit)

    def batch(
        self,
        source: Groups,
        n_components: int,
        family: Family,
        floor: float,
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
            centres = kmeans_plus_plus(block.x, block.w, n_components, own)
            if self.lloyd:
                centres = kmeans(block.x, block.w, centres, max_iter=self.max_iter, tol=self.tol)
            if found is None:
                found = centres.new_empty(source.n_groups, *centres.shape[1:])
            found[block.groups.to(found.device)] = centres
        assert found is not None
        return at_centres(source, found, family, floor)

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
        floor: float,
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
        return first_parameters(equal, family, floor)


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
        floor: float,
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


@dataclass(frozen=True)
class Labels(Seeding):
    """One label per row, 0 to K - 1; negative means unknown, and such rows are left out.

    Args:
        labels: `(N,)` integers.
    """

    labels: Any

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: float,
        generator: torch.Generator,
    ) -> Parameters:
        try:
            labels = torch.as_tensor(self.labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"labels must be integers, one per row: {error}") from error
        if tuple(labels.shape) != (source.n_rows,) or labels.dtype.is_floating_point:
            raise InputError(
                f"labels must be one integer per row, ({source.n_rows},), got {labels.dtype} of "
                f"shape {tuple(labels.shape)}"
            )
        if int(labels.max()) >= n_components or int(labels.max()) < 0:
            raise InputError(
                f"labels must lie in 0..{n_components - 1} (negative: unknown), "
                f"the largest is {int(labels.max())}"
            )
        sample = source.sample(_CHUNK, generator).x.double()
        frame = sample.mean(0, keepdim=True).expand(n_components, -1).contiguous()

        def known(block: Block) -> Tensor:
            return labels[block.numbers().to(labels.device)].to(block.x.device)

        # twice: about the labels' own means the covariances keep their digits
        rough = labelled_sums(source.blocks(), frame, family, known).over(source.group).moments()
        centres = from_moments(rough, family, 1.0)[0].means
        sums = labelled_sums(source.blocks(), centres, family, known).over(source.group)
        return first_parameters(sums.moments(), family, floor, sums.unit)

    def only(self, index: Tensor) -> Labels:
        given = self._of_each()
        # others than one for each are refused by `batch`
        fits = getattr(given, "ndim", 2) != 1 and len(given) > int(index.max())
        return Labels([given[b] for b in index.tolist()]) if fits else self

    def batch(
        self,
        source: Groups,
        n_components: int,
        family: Family,
        floor: float,
        generator: Generators,
    ) -> Parameters:
        given, b = self._of_each(), source.n_groups
        if len(given) != b or (isinstance(given, (Tensor, np.ndarray)) and given.ndim == 1):
            raise InputError(
                f"labels of a batch of {b} mixtures are one table or list of {b} rows of labels, "
                f"got {len(given)}"
            )
        drawn = one_each(generator, b)
        each = [
            Labels(own)(source.of(g), n_components, family, floor, drawn[g])
            for g, own in enumerate(given)
        ]
        return stacked(each)

    def _of_each(self) -> Any:
        """Labels `(*B, N)` along one leading axis; others as they are."""
        given = self.labels
        if isinstance(given, (Tensor, np.ndarray)) and given.ndim > 1:
            given = given.reshape(-1, given.shape[-1])
        return given


@dataclass(frozen=True)
class Start(Seeding):
    """Known parameters.

    Args:
        parameters: what to start from.
    """

    parameters: Parameters

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: float,
        generator: torch.Generator,
    ) -> Parameters:
        p = self.parameters
        if (p.n_components, p.n_features, p.family) != (n_components, source.n_features, family):
            raise InputError(
                f"the start has K={p.n_components}, D={p.n_features}, {p.family.name}; the fit "
                f"has K={n_components}, D={source.n_features}, {family.name}"
            )
        return p

    def only(self, index: Tensor) -> Start:
        p = self.parameters
        if not p.batch_shape or p.batch_shape.numel() <= int(index.max()):
            return self  # one for all, or refused by `batch`
        return Start(p.flat()[index.to(p.means.device)])

    def batch(
        self,
        source: Groups,
        n_components: int,
        family: Family,
        floor: float,
        generator: Generators,
    ) -> Parameters:
        b = source.n_groups
        p = self(source, n_components, family, floor, one_each(generator, b)[0])
        if not p.batch_shape:
            return p.map(lambda t: t.expand(b, *t.shape).clone())
        if p.batch_shape.numel() != b:
            raise InputError(f"a start of {p.batch_shape.numel()} mixtures is none for {b}")
        return p.flat()


_SEEDINGS: Mapping[str, Seeding] = {
    "kmeans": KMeans(),
    "k-means++": KMeansPlusPlus(),
    "random_from_data": RandomRows(),
    "random": RandomResponsibilities(),
}


def as_seeding(init: str | Seeding | Parameters | Any) -> Seeding:
    """A seeding from its (scikit-learn) name, from parameters, or from labels `(N,)`."""
    if isinstance(init, Seeding):
        return init
    if isinstance(init, Parameters):
        return Start(init)
    if isinstance(init, str):
        if init not in _SEEDINGS:
            raise InputError(
                f"init must be one of {', '.join(_SEEDINGS)}, current, labels (N,), a mixture or "
                f"Parameters, got {init!r}"
            )
        return _SEEDINGS[init]
    return Labels(init)
