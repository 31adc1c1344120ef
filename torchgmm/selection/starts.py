"""First parameters of many fits: k-means on one sample for all, and splits of what was fitted."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..covariance import Family, Floor, RelativeFloor
from ..data import Block, Source
from ..kernels import GivenSums, as_kernel, labelled_sums
from ..kmeans import clustered, nearest_labels
from ..parameters import Parameters
from ..seeding import Seeding, first_parameters

__all__ = ["Centres", "Sample", "Split"]


@dataclass(frozen=True)
class Centres(Seeding):
    """Every row belongs to its nearest centre.

    Args:
        centres: `(K, D)`, float64.
        unit: in which distances along each feature are measured, `(D,)`; the rows' own if None.
    """

    centres: Tensor
    unit: Tensor | None = None

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: torch.Generator,
    ) -> Parameters:
        centres = source.group.of_first(self.centres)
        unit = torch.ones_like(centres[0]) if self.unit is None else self.unit

        def nearest(block: Block) -> Tensor:
            return nearest_labels(block.x / unit.to(block.x.dtype), centres / unit)

        sums = labelled_sums(source.blocks(), centres, family, nearest).over(source.group)
        return first_parameters(sums.moments(), family, floor, sums.unit)


@dataclass(frozen=True)
class Split(Seeding):
    """A fitted mixture whose widest components are cut in two, across their longest axis.

    Widest is weight times variance along that axis: the cut takes the most squared distance away.
    The rows of such a component go to the half on whose side of its mean they lie, so the start
    is one M-step of any family.

    Args:
        parameters: of fewer components, at least half as many.
        unit: in which lengths along each feature are measured, `(D,)`; the rows' own if None.
    """

    parameters: Parameters
    unit: Tensor | None = None

    def __call__(
        self,
        source: Source,
        n_components: int,
        family: Family,
        floor: Floor,
        generator: torch.Generator,
    ) -> Parameters:
        p = self.parameters
        which, axes = self._widest(n_components - p.n_components)
        sums = GivenSums(torch.cat([p.means, p.means[which]]), family)
        for block in source.blocks():
            cut = functools.partial(_cut, block.x, p.means[which], axes, which)
            for part, r in as_kernel("auto").each(block.x, p, cut):
                sums.add(block.x[part], None if block.w is None else block.w[part], r)
        sums = sums.over(source.group)
        return first_parameters(sums.moments(), family, floor, sums.unit)

    def _widest(self, count: int) -> tuple[Tensor, Tensor]:
        """Numbers `(count,)` of the components to cut, and normals `(count, D)` of the cuts."""
        p = self.parameters
        unit = torch.ones_like(p.means[0]) if self.unit is None else self.unit
        # axes of equal length, as all are of one component in units of its own deviations: the
        # first is cut, not whichever rounding says
        nearly = unit * (1 + 1e-6 * torch.arange(len(unit), dtype=unit.dtype, device=unit.device))
        values, vectors = torch.linalg.eigh(covariances(p) / nearly / nearly.unsqueeze(-1))
        which = (p.log_weights.exp() * values[:, -1]).topk(count).indices
        return which, vectors[which, :, -1] / unit


def _cut(
    x: Tensor, means: Tensor, axes: Tensor, which: Tensor, part: slice, joint: Tensor
) -> tuple[slice, Tensor]:
    """A chunk, and responsibilities `(K + C, n)`: the cut components' for what lies beyond."""
    r = joint.softmax(-2).double()
    beyond = (x[part].double() @ axes.mT > (means * axes).sum(-1)).double().mT
    taken = r[which] * beyond
    r[which] -= taken
    return part, torch.cat([r, taken])


@dataclass
class Sample:
    """Some rows in memory, and the k-means centres that were found there for every K so far.

    Args:
        block: the rows.
        generator: what is drawn comes from it.
    """

    block: Block
    generator: torch.Generator
    _found: dict[tuple[int, bool], Centres] = field(default_factory=dict)
    _covariance: Tensor | None = None

    def centres(self, k: int, family: Family) -> Centres:
        """K centres: the same for all families that see features in the same units."""
        key = (k, _measures(family))
        if key not in self._found:
            self._found[key] = self.fresh(k, family)
        return self._found[key]

    def fresh(self, k: int, family: Family) -> Centres:
        """K centres, drawn anew."""
        x, w, unit = self.block.x, self.block.w, self.unit(family)
        scaled = x / unit.to(x.dtype)
        found = clustered(scaled, w, k, self.generator)
        return Centres(found * unit, unit)

    def unit(self, family: Family) -> Tensor:
        """What lengths along each feature are measured in, `(D,)`, float64.

        The standard deviation of the rows (1 of a constant feature) where the family has a
        variance for every feature, so that units have no part in its fits either; else 1.
        """
        if not _measures(family):
            return torch.ones_like(self.block.x[0], dtype=torch.float64)
        x, spread = self.block.x, self.covariance().diagonal().sqrt()
        rounding = 4 * torch.finfo(x.dtype).eps * x.abs().amax(0).double()
        return torch.where(spread > rounding, spread, 1)

    def covariance(self) -> Tensor:
        """Of all rows, `(D, D)`, float64."""
        if self._covariance is None:
            self._covariance = self._computed()
        return self._covariance

    def _computed(self) -> Tensor:
        x = self.block.x.double()
        w = torch.ones(len(x), dtype=x.dtype, device=x.device)
        w = w if self.block.w is None else self.block.w.double()
        from_mean = x - (w @ x) / w.sum()
        return (from_mean * w[:, None]).mT @ from_mean / w.sum()


def covariances(p: Parameters) -> Tensor:
    """Covariances as matrices, `(K, D, D)`, whatever the family."""
    factor = p.family.dense_tril(p.scale, p.n_components, p.n_features)
    return factor @ factor.mT


def hollow(p: Parameters, floor: Floor, whole: Tensor) -> list[int]:
    """Components without spread of their own in a direction in which the rows have some.

    They sit on copies of a row or on rounded values. Their likelihood is that of the floor and
    grows without bound as it falls, so no criterion can judge them; mclust leaves them out too.

    Args:
        p: a mixture.
        floor: `reg_covar` of its fit.
        whole: covariance of all rows `(D, D)`.
    """
    own = covariances(p)
    share = floor.share if isinstance(floor, RelativeFloor) else floor
    if isinstance(floor, RelativeFloor):  # in units in which it is one number for all
        unit = whole.diagonal().sqrt()
        unit = torch.where(unit > 0, unit, 1)
        own, whole = (matrix / unit / unit.unsqueeze(-1) for matrix in (own, whole))
    values, vectors = torch.linalg.eigh(own)
    there = (vectors * (whole @ vectors)).sum(-2)  # variance of all rows along each axis
    bare = (values <= (2 * share + 1e-9 * there)) & (there > 100 * share) & (there > 0)
    return [int(k) for k in bare.any(-1).nonzero().flatten()]


def _measures(family: Family) -> bool:
    """Whether a family has a variance for every feature: then a change of units changes no fit."""
    return family.factor_shape(2)[0] > 1
