"""First parameters from rows: k-means, k-means++, random rows, random responsibilities, labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .checks import numbers_of
from .covariance import Family
from .data import Block, Groups, Source, uniform
from .errors import InputError, SingularCovarianceError
from .kernels import GivenSums, labelled_sums, nearest_moments, weighted_sums
from .kmeans import assign, kmeans, kmeans_plus_plus
from .moments import Moments
from .parameters import Parameters, from_moments, stacked

__all__ = [
    "KMeans",
    "KMeansPlusPlus",
    "Labels",
    "RandomResponsibilities",
    "RandomRows",
    "Seeding",
    "Start",
    "as_seeding",
    "at_centres",
    "child",
    "first_parameters",
    "maximum",
    "nearest_sums",
]

# rows at a time where responsibilities or labels are made on the way: memory O(rows * K)
_CHUNK = 8192


Generators = torch.Generator | Sequence[torch.Generator]


def child(generator: torch.Generator, *, first: bool) -> torch.Generator:
    """The generator of one of several runs: its start is the same, one by one or side by side.

    The first run is what a single one would be.
    """
    own = torch.Generator()
    if first:
        own.set_state(generator.get_state())
        return own
    return own.manual_seed(int(torch.randint(2**62, (), generator=generator)))


def _one_each(generator: Generators, n: int) -> Sequence[torch.Generator]:
    return [generator] * n if isinstance(generator, torch.Generator) else generator


class Seeding(ABC):
    """Makes the parameters that a fit starts from. Draws only from the generator it is given."""

    @abstractmethod
    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: float,
        generator: torch.Generator,  # on the CPU, whatever the device of the rows
    ) -> Parameters:
        """Parameters in float64 on the device of the rows."""

    def only(self, index: Tensor) -> Seeding:
        """What it means for some mixtures of a batch, by number."""
        return self

    def batch(
        self,
        source: Groups,
        n_components: int,
        family: Family,
        floor: float,
        generator: Generators,
    ) -> Parameters:
        """Parameters `(B, ...)` of B mixtures. Here: one after the other.

        With a generator for each, a start is what it would be alone, to rounding.
        """
        drawn = _one_each(generator, source.n_groups)
        each = [self(source.of(b), n_components, family, floor, g) for b, g in enumerate(drawn)]
        return stacked(each)


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
        size = self.max_rows or max(256 * n_components, 16_384)
        block = _drawn(source, max(size, n_components), n_components, generator)
        centres = kmeans_plus_plus(block.x, block.w, n_components, generator)
        if self.lloyd:
            centres = kmeans(block.x, block.w, centres, max_iter=self.max_iter, tol=self.tol)
        sums = nearest_sums(_all_rows(source, block), centres, family).over(source.group)
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
        size = max(self.max_rows or max(256 * n_components, 16_384), n_components)
        found: Tensor | None = None
        one = generator if isinstance(generator, torch.Generator) else generator[0]
        for block in source.samples(size, one):
            assert block.groups is not None
            drawn = generator
            if not isinstance(drawn, torch.Generator):
                drawn = [drawn[g] for g in block.groups.tolist()]
            centres = kmeans_plus_plus(block.x, block.w, n_components, drawn)
            if self.lloyd:
                centres = kmeans(block.x, block.w, centres, max_iter=self.max_iter, tol=self.tol)
            if found is None:
                found = centres.new_empty(source.n_groups, *centres.shape[1:])
            found[block.groups.to(found.device)] = centres
        assert found is not None
        return at_centres(source, found, family, floor)


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
        block = _drawn(source, size, n_components, generator)
        chosen = torch.randperm(len(block.x), generator=generator)[:n_components]
        centres = block.take(chosen).x.double()
        sums = nearest_sums(_all_rows(source, block), centres, family).over(source.group)
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
        block = _drawn(source, size, n_components, generator)
        frame = block.x.double().mean(0, keepdim=True).expand(n_components, -1).contiguous()

        seed = int(torch.randint(2**62, (), generator=generator))
        before = _rows_before(source, block)

        def draw(part: Block) -> Tensor:
            nonlocal before
            numbers = torch.arange(before, before + len(part.x))
            before += len(part.x)
            r = uniform(numbers, n_components, seed)
            return r / r.sum(0)

        sums = weighted_sums(_all_rows(source, block), frame, family, draw).over(source.group)
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
        given = self.labels
        if isinstance(given, (Tensor, np.ndarray)) and given.ndim > 1:
            given = given.reshape(-1, given.shape[-1])
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
        given, b = self.labels, source.n_groups
        if isinstance(given, (Tensor, np.ndarray)) and given.ndim > 1:
            given = given.reshape(-1, given.shape[-1])
        if len(given) != b or (isinstance(given, (Tensor, np.ndarray)) and given.ndim == 1):
            raise InputError(
                f"labels of a batch of {b} mixtures are one table or list of {b} rows of labels, "
                f"got {len(given)}"
            )
        drawn = _one_each(generator, b)
        each = [
            Labels(own)(source.of(g), n_components, family, floor, drawn[g])
            for g, own in enumerate(given)
        ]
        return stacked(each)


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
        p, axes = self.parameters, len(self.parameters.batch_shape)
        if not axes or p.batch_shape.numel() <= int(index.max()):
            return self  # one for all, or refused by `batch`
        return Start(p.map(lambda t: t.reshape(-1, *t.shape[axes:]))[index.to(p.means.device)])

    def batch(
        self,
        source: Groups,
        n_components: int,
        family: Family,
        floor: float,
        generator: Generators,
    ) -> Parameters:
        one = generator if isinstance(generator, torch.Generator) else generator[0]
        p = self(source, n_components, family, floor, one)
        b = source.n_groups
        if not p.batch_shape:
            return p.map(lambda t: t.expand(b, *t.shape).clone())
        if p.batch_shape.numel() != b:
            raise InputError(f"a start of {p.batch_shape.numel()} mixtures is none for {b}")
        axes = len(p.batch_shape)
        return p.map(lambda t: t.reshape(b, *t.shape[axes:]))


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
                f"init must be one of {', '.join(_SEEDINGS)}, current, labels (N,) or Parameters, "
                f"got {init!r}"
            )
        return _SEEDINGS[init]
    return Labels(init)


def _drawn(source: Source, size: int, n_components: int, generator: torch.Generator) -> Block:
    """Some rows of positive weight; as absent rows don't count, only here it shows how many."""
    block = source.sample(size, generator)
    if len(block.x) < n_components:
        raise InputError(
            f"{len(block.x)} row(s) of positive weight cannot be fitted with "
            f"n_components={n_components}: give more rows or fewer components"
        )
    return block


def _all_rows(source: Source, sample: Block) -> Iterable[Block]:
    """Every row; of a stream that cannot be read again, the rows that were sampled."""
    return source.blocks() if source.replayable else [source.mine(sample)]


def _rows_before(source: Source, sample: Block) -> int:
    """How many rows the processes before this one have; to know it they are read once."""
    group = source.group
    if group.size == 1:
        return 0
    own = sum(len(block.x) for block in _all_rows(source, sample))
    return sum(int(count) for count in group.texts(str(own))[: group.rank])


def nearest_sums(blocks: Iterable[Block], centres: Tensor, family: Family) -> GivenSums:
    """Moments about `centres (K, D)` of rows that each belong to the nearest one."""
    return labelled_sums(blocks, centres, family, lambda block: assign(block.x, centres)[0])


def at_centres(source: Groups, centres: Tensor, family: Family, floor: float) -> Parameters:
    """Parameters `(B, ...)` of rows that each belong to the nearest of `centres (B, K, D)`."""
    total: Moments | None = None
    for block in source.blocks():
        if block.groups is None:
            part = nearest_moments(block.x, block.w, centres, family)
            total = part if total is None else total + part
            continue
        where = block.groups.to(centres.device)
        part = nearest_moments(block.x, block.w, centres[where], family)
        if total is None:
            total = _nothing(centres, family)
        total.add_(where, part)
    if total is None:
        raise InputError("the source gave no rows of positive weight")
    counts = source.counts.to(centres.device)
    unit = torch.where(counts > 0, total.rows / counts.clamp_min(1), 1.0).unsqueeze(-1)
    return first_parameters(total, family, floor, unit)


def _nothing(frame: Tensor, family: Family) -> Moments:
    b, k, d = frame.shape
    second = frame.new_zeros(b, *family.scale_shape(k, d))
    zero = frame.new_zeros(b)
    return Moments(frame.new_zeros(b, k), torch.zeros_like(frame), second, zero, zero + 0, frame)


def first_parameters(
    moments: Moments, family: Family, floor: float, unit: float | Tensor = 1.0
) -> Parameters:
    """M-step of a start: a component with too few rows for a covariance borrows the pooled one.

    `unit` is what one row weighs on average; `(B, 1)` for a batch.
    """
    if not family.tied:
        wanted = family.min_rows(moments.frame.shape[-1]) * unit
        lack = (wanted - moments.weight).clamp_min(0)
        axes = [1] * family.n_axes
        total = moments.weight.sum(-1, keepdim=True)
        pooled = family.pooled(moments) / total.reshape(*total.shape, *axes)
        second = moments.second + lack.reshape(*lack.shape, *axes) * pooled
        moments = Moments(
            moments.weight + lack,
            moments.first,
            second,
            moments.log_prob,
            moments.rows,
            moments.frame,
        )
    return maximum(moments, family, floor)


def maximum(moments: Moments, family: Family, floor: float) -> Parameters:
    """The M-step of a start; a covariance without spread and floor is an error."""
    parameters, hopeless = from_moments(moments, family, floor)
    if bool(hopeless.any()):
        raise SingularCovarianceError(numbers_of(hopeless), floor)
    return parameters
