"""First parameters from rows: k-means, k-means++, random rows, random responsibilities, labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .covariance import Family
from .covariance.base import Whitened
from .data import Block, Source
from .errors import InputError, SingularCovarianceError
from .kmeans import assign, kmeans, kmeans_plus_plus
from .moments import Moments
from .parameters import Parameters, from_moments

__all__ = [
    "KMeans",
    "KMeansPlusPlus",
    "Labels",
    "RandomResponsibilities",
    "RandomRows",
    "Seeding",
    "Start",
    "as_seeding",
]

# rows at a time where responsibilities or labels are made on the way: memory O(rows * K)
_CHUNK = 8192


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
        block = source.sample(max(size, n_components), generator)
        centres = kmeans_plus_plus(block.x, block.w, n_components, generator)
        if self.lloyd:
            centres = kmeans(block.x, block.w, centres, max_iter=self.max_iter, tol=self.tol)
        sums = _labelled_sums(source, centres, family, lambda b: assign(b.x, centres)[0])
        return _start(sums.moments(), family, floor, sums.unit)


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
        block = source.sample(n_components, generator)
        centres = block.x.double()
        sums = _labelled_sums(source, centres, family, lambda b: assign(b.x, centres)[0])
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
        return _start(equal, family, floor)


@dataclass(frozen=True)
class RandomResponsibilities(Seeding):
    """Every row belongs to every component by a random amount: a start without any geometry."""

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: float,
        generator: torch.Generator,
    ) -> Parameters:
        sample = source.sample(_CHUNK, generator).x.double()
        frame = sample.mean(0, keepdim=True).expand(n_components, -1).contiguous()

        def draw(rows: int) -> Tensor:
            r = torch.rand((n_components, rows), generator=generator, dtype=torch.float64)
            return r / r.sum(0)

        sums = _weighted_sums(source, frame, family, draw)
        return _start(sums.moments(), family, floor, sums.unit)


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
        labels = torch.as_tensor(self.labels)
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
        rough = _labelled_sums(source, frame, family, known).moments()
        centres = from_moments(rough, family, 1.0)[0].means
        sums = _labelled_sums(source, centres, family, known)
        return _start(sums.moments(), family, floor, sums.unit)


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


def _start(moments: Moments, family: Family, floor: float, unit: float = 1.0) -> Parameters:
    """M-step of a start: a component with too few rows for a covariance borrows the pooled one.

    `unit` is what one row weighs on average.
    """
    if not family.tied:
        wanted = family.min_rows(moments.frame.shape[-1]) * unit
        lack = (wanted - moments.weight).clamp_min(0)
        pooled = family.pooled(moments) / moments.weight.sum()
        second = moments.second + lack.reshape(-1, *[1] * family.n_axes) * pooled
        moments = Moments(
            moments.weight + lack,
            moments.first,
            second,
            moments.log_prob,
            moments.rows,
            moments.frame,
        )
    parameters, hopeless = from_moments(moments, family, floor)
    if bool(hopeless.any()):
        raise SingularCovarianceError(hopeless.nonzero().flatten().tolist(), floor)
    return parameters


def _labelled_sums(
    source: Source, frame: Tensor, family: Family, labels_of: Callable[[Block], Tensor]
) -> _Sums:
    """Moments in float64 about `frame (K, D)` with hard labels; negative labels are left out.

    Rows are grouped by label, so a pass costs N D^2 however many components there are.
    """
    total = _Sums(frame, family)
    for block in source.blocks():
        for part in _parts(block):
            labels = labels_of(part)
            order = labels.argsort(stable=True)
            counts = labels[labels >= 0].bincount(minlength=len(frame)).tolist()
            start = int((labels < 0).sum())
            for k, count in enumerate(counts):
                rows = order[start : start + count]
                start += count
                if count:
                    ones = torch.ones(1, count, dtype=torch.float64, device=frame.device)
                    w = None if part.w is None else part.w[rows]
                    total.add(slice(k, k + 1), part.x[rows], w, ones)
    return total


def _weighted_sums(
    source: Source, frame: Tensor, family: Family, draw: Callable[[int], Tensor]
) -> _Sums:
    """Moments in float64 about `frame (K, D)` with responsibilities `draw(n) -> (K, n)`."""
    total = _Sums(frame, family)
    rows = max(64, _CHUNK // len(frame))
    for block in source.blocks():
        for part in _parts(block, rows):
            total.add(slice(None), part.x, part.w, draw(len(part.x)).to(frame.device))
    return total


class _Sums:
    """Running sums of given responsibilities: the M-step's half of an E-step."""

    def __init__(self, frame: Tensor, family: Family) -> None:
        k, d = frame.shape
        self._family = family
        self._frame = frame
        self._weight = frame.new_zeros(k)
        self._first = frame.new_zeros(k, d)
        self._second = frame.new_zeros(family.scale_shape(k, d))
        self._n_rows = 0

    def add(self, which: slice, x: Tensor, w: Tensor | None, r: Tensor) -> None:
        """Rows `x (n, D)` under `r (K', n)` for the components `which`; r may be overwritten."""
        self._n_rows += len(x)
        if w is not None:
            r = r * w
        d = x.double() - self._frame[which].unsqueeze(-2)  # (K', n, D)
        squares = d * d
        second = self._family.scatter(Whitened(d, squares, squares.sum(-1)), r)
        self._weight[which] += r.sum(-1)
        self._first[which] += (r.unsqueeze(-2) @ d).squeeze(-2)
        self._second[slice(None) if self._family.tied else which] += second

    @property
    def unit(self) -> float:
        """The mean weight of a row."""
        return float(self._weight.sum()) / max(1, self._n_rows)

    def moments(self) -> Moments:
        """What was added up; `rows` counts only rows that have a label."""
        nothing = self._weight.new_zeros(())
        return Moments(
            self._weight, self._first, self._second, nothing, self._weight.sum(), self._frame
        )


def _parts(block: Block, rows: int = 16 * _CHUNK) -> list[Block]:
    return [block.part(start, rows) for start in range(0, len(block.x), rows)]
