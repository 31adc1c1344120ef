"""A step of many processes: sums over all of them, and the same number of batches in each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch

from ..collective import Group
from ..data import Block, Source
from ..moments import Moments
from ..parameters import Parameters, to_moments

__all__ = ["in_step", "summed"]


def summed(
    group: Group, moments: Moments | None, rows: int, parameters: Parameters
) -> tuple[Moments | None, int]:
    """Moments and number of the rows of all processes: one flat sum in float64.

    Args:
        group: the processes.
        moments: of the rows of this one, about the means; None if it has none.
        rows: how many it has.
        parameters: of the E-step; a digest goes along, as all processes must hold the same.
    """
    own = to_moments(parameters) * 0.0 if moments is None else moments
    count = own.rows.new_tensor(float(rows))
    parts = (own.weight, own.first, own.second, own.log_prob, own.rows, count)
    equal = (parameters.logits, parameters.means, parameters.scale)
    weight, first, second, log_prob, weights, count = group.sum(parts, equal)
    total = int(count)
    found = Moments(weight, first, second, log_prob, weights, own.frame)
    return (found if total else None), total


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
