"""A step of many processes: sums over all of them, and the same number of batches in each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..collective import Group
from ..data import Block, Source
from ..moments import Moments
from ..parameters import Parameters, from_moments, to_moments

__all__ = ["in_step", "maximised", "summed"]

# K D^3 from which on processes estimate some of the covariances each: a core takes 25 ms for all
# of these, and two machines 10 ms to tell each other a half by a link of 1 GB/s.
_CUBIC = 10**8


def summed(
    group: Group,
    moments: Moments | None,
    rows: int,
    parameters: Parameters,
    *,
    more: bool = False,
) -> tuple[Moments | None, int, int]:
    """Moments and number of the rows of all processes: one flat sum in float64.

    Args:
        group: the processes.
        moments: of the rows of this one, about the means; None if it has none.
        rows: how many it has.
        parameters: of the E-step; a digest goes along, as all processes must hold the same.
        more: whether this process has rows left in this pass.

    Returns:
        The moments, None where there are no rows; how many there are; and how many processes have
        more.
    """
    own = to_moments(parameters) * 0.0 if moments is None else moments
    counts = own.rows.new_tensor([float(rows), float(more)])
    family, d = parameters.family, parameters.n_features
    parts = (own.weight, own.first, family.packed(own.second), own.log_prob, own.rows, counts)
    equal = (parameters.logits, parameters.means, parameters.scale)
    weight, first, second, log_prob, weights, counts = group.sum(parts, equal)
    total, left = (int(count) for count in counts)
    second = family.unpacked(second, d)
    found = Moments(weight, first, second, log_prob, weights, own.frame)
    return (found if total else None), total, left


def maximised(
    group: Group, moments: Moments, before: Parameters, floor: float | Tensor, central: Tensor
) -> tuple[Parameters, Tensor]:
    """`from_moments`, shared out over the processes by component where it is much work."""
    (k, d), family = moments.frame.shape[-2:], before.family
    apart = not family.tied and not family.coupled and family.n_axes == 2
    if group.size == 1 or not apart or k * d**3 < _CUBIC:
        return from_moments(moments, family, floor, central, before)
    n, means = moments.present, moments.frame + moments.mean
    scale, hopeless = torch.zeros_like(moments.second), torch.zeros_like(moments.weight)
    own = slice(*group.share(k))
    if own.start < own.stop:
        part = Moments(
            moments.weight[own],
            moments.first[own],
            moments.second[own],
            moments.log_prob,
            moments.rows,
            moments.frame[own],
        )
        scale[own], hopeless[own] = family.estimate(part, floor, central[own])
    lower, hopeless = group.sum((family.packed(scale), hopeless))
    logits = n.log() - n.sum(-1, keepdim=True).log()
    scale = family.unpacked(lower, d).tril()
    return Parameters(logits, means, scale, family), hopeless > 0


def in_step(reader: Iterator[Block], source: Source, position: int) -> Iterator[Block]:
    """The blocks of a reader, and empty ones until those of all processes have ended.

    Where all processes read the same batches, of which each has a part, they end together.
    """
    if source.group.size == 1 or not source.own:
        return reader
    return _in_step(reader, source, position)


def _in_step(reader: Iterator[Block], source: Source, position: int) -> Iterator[Block]:
    nothing = Block(torch.empty(0, source.n_features, dtype=source.dtype), None, 0)
    for number in itertools.count(position):
        found = next(reader, None)
        if not source.group.total(float(found is not None))[0]:
            return
        yield replace(nothing if found is None else found, number=number)
