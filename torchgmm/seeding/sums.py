"""First parameters from sums over the rows around given centres."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..checks import numbers_of
from ..covariance import Family, Floor, floor_of
from ..data import Block, Groups, Source
from ..errors import InputError, SingularCovarianceError
from ..kernels import GivenSums, labelled_sums, nearest_moments
from ..kmeans import nearest_labels
from ..moments import Moments
from ..parameters import Parameters, from_moments
from .alike import distinct

__all__ = [
    "all_rows",
    "at_centres",
    "drawn",
    "first_parameters",
    "maximum",
    "nearest_sums",
    "rows_before",
]


def drawn(source: Source, size: int, n_components: int, generator: torch.Generator) -> Block:
    """Some rows of positive weight; as absent rows don't count, only here it shows how many."""
    block = source.sample(size, generator)
    if len(block.x) < n_components:
        raise InputError(
            f"{len(block.x)} row(s) of positive weight cannot be fitted with "
            f"n_components={n_components}: give more rows or fewer components"
        )
    return block


def all_rows(source: Source, sample: Block) -> Iterable[Block]:
    """Every row; of a stream that cannot be read again, the rows that were sampled."""
    return source.blocks() if source.replayable else [source.mine(sample)]


def rows_before(source: Source, sample: Block) -> int:
    """How many rows the processes before this one have; to know it they are read once."""
    group = source.group
    if group.size == 1:
        return 0
    own = sum(len(block.x) for block in all_rows(source, sample))
    return sum(int(count) for count in group.texts(str(own))[: group.rank])


def nearest_sums(blocks: Iterable[Block], centres: Tensor, family: Family) -> GivenSums:
    """Moments about `centres (K, D)` of rows that each belong to the nearest one."""
    return labelled_sums(blocks, centres, family, lambda block: nearest_labels(block.x, centres))


def at_centres(
    source: Groups, centres: Tensor, family: Family, floor: Floor | Tensor
) -> Parameters:
    """Parameters `(B, ...)` of rows that each belong to the nearest of `centres (B, K, D)`."""
    if not source.runs:
        return _at_centres(source, centres, family, floor)
    first, same = distinct(centres)
    if len(first) == len(same):
        return _at_centres(source, centres, family, floor)
    found = _at_centres(source.only(first), centres[first], family, floor)
    return found[same.to(centres.device)]


def _at_centres(
    source: Groups, centres: Tensor, family: Family, floor: Floor | Tensor
) -> Parameters:
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
    moments: Moments, family: Family, floor: Floor | Tensor, unit: float | Tensor = 1.0
) -> Parameters:
    """M-step of a start: a component with too few rows for a covariance borrows the pooled one.

    `unit` is what one row weighs on average; `(B, 1)` for a batch.
    """
    floor = floor_of(floor, moments, family)
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


def maximum(moments: Moments, family: Family, floor: Floor | Tensor) -> Parameters:
    """The M-step of a start; sums out of range, or a covariance without spread, are errors."""
    if not moments.is_finite():
        raise InputError(
            "the sums of the rows for a start are not finite: rows or their weights are so large, "
            "or all weights so small, that they are out of range: rescale them"
        )
    parameters, hopeless = from_moments(moments, family, floor)
    if bool(hopeless.any()):
        raise SingularCovarianceError(numbers_of(hopeless))
    return parameters
