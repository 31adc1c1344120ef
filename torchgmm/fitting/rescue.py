"""What becomes of a component that lost its rows or its spread: stated, and counted."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..checks import numbers_of
from ..collective import ALONE, Group
from ..covariance import Family
from ..data import Block
from ..errors import EmptyComponentError, InputError
from ..exact import exact
from ..kernels import Kernel
from ..moments import Moments
from ..parameters import Parameters

__all__ = ["Rescue", "worst_rows"]

Policy = Literal["keep", "reseed", "raise"]
# A component whose share of all rows is below this explains nothing that float64 sums can hold.
_EMPTY = 1e-12


@dataclass(frozen=True)
class Rescue:
    """The policy for components that empty or collapse during a fit.

    A component is *empty* when its share of the rows is below 1e-12, and *collapsed* when its
    covariance is nothing but the floor: it sits on one row or on copies of one. `keep` leaves an
    empty one where it was and a collapsed one at the floor, as scikit-learn does; `reseed` moves
    it to one of the rows that the mixture explains worst, with the mixture's pooled covariance
    and the weight of an average component; `raise` ends the fit with an error.

    Args:
        empty: `reseed`, `keep` or `raise`.
        collapsed: `keep`, `reseed` or `raise`.
        limit: after so many reseeded components, per component of the mixture, the rest are kept:
            more components than the rows have places for must not keep a fit from ending.
    """

    empty: Policy = "reseed"
    collapsed: Policy = "keep"
    limit: int = 2

    def __post_init__(self) -> None:
        for name in ("empty", "collapsed"):
            value = getattr(self, name)
            if value not in ("keep", "reseed", "raise"):
                raise InputError(f"{name} must be keep, reseed or raise, got {value!r}")

    def find(
        self, moments: Moments, central: Tensor, family: Family, floor: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Masks `(*B, K)` of empty and of collapsed components; `central` is of the moments."""
        empty = moments.weight <= _EMPTY * moments.rows.unsqueeze(-1)
        if family.tied:
            return empty, torch.zeros_like(empty)
        collapsed = (family.diagonal(central) <= 1e-6 * floor).all(-1) & ~empty
        return empty, collapsed

    def check(self, empty: Tensor, collapsed: Tensor) -> None:
        """Raise where the policy says so."""
        if self.empty == "raise" and bool(empty.any()):
            raise EmptyComponentError(numbers_of(empty), "lost all their rows")
        if self.collapsed == "raise" and bool(collapsed.any()):
            raise EmptyComponentError(numbers_of(collapsed), "collapsed onto single rows")

    def chosen(self, empty: Tensor, collapsed: Tensor, spent: int | Tensor) -> Tensor:
        """Mask `(*B, K)` of the components to reseed, given how many were before `(*B,)`."""
        wanted = torch.zeros_like(empty)
        if self.empty == "reseed":
            wanted |= empty
        if self.collapsed == "reseed":
            wanted |= collapsed
        if isinstance(spent, Tensor):
            return wanted & (spent < self.limit * empty.shape[-1]).unsqueeze(-1)
        if spent >= self.limit * len(empty):
            wanted.zero_()
        return wanted


def reseeded(
    parameters: Parameters,
    which: Tensor,  # (K,) mask
    moments: Moments,
    blocks: Iterable[Block],
    kernel: Kernel,
    floor: float | Tensor,
    group: Group = ALONE,
) -> Parameters:
    """Put the chosen components on the worst-explained rows, with the pooled covariance."""
    index = which.nonzero().flatten()
    family = parameters.family
    means = parameters.means.clone()
    rows = worst_rows(blocks, parameters, kernel, len(index), group)
    means[index[: len(rows)]] = rows
    scale = parameters.scale
    if not family.tied:
        share = Moments(
            moments.rows.reshape(1),
            torch.zeros_like(moments.first[:1]),
            family.pooled(moments),
            moments.log_prob,
            moments.rows,
            moments.frame[:1],
        )
        pooled, hopeless = family.estimate(share, floor)
        if not bool(hopeless.any()):
            scale = family.replaced(scale, which, pooled)
    logits = parameters.log_weights.clone()
    logits[index] = -torch.tensor(float(len(logits)), dtype=logits.dtype).log()
    return Parameters(logits.log_softmax(-1), means, scale, family)


def worst_rows(
    blocks: Iterable[Block],
    parameters: Parameters,
    kernel: Kernel,
    count: int,
    group: Group = ALONE,
) -> Tensor:
    """The `count` different rows `(<= count, D)` of least log-probability, float64.

    Called only when a component needs it; it holds `count` rows, no more.
    """
    best = parameters.means.new_empty(0, parameters.n_features)
    worst = parameters.means.new_empty(0)
    for block in blocks if group.size == 1 else _some(blocks):
        few = functools.partial(_worst_of, block.x, 4 * count)
        for rows, values in kernel.each(block.x, parameters, few):
            best, worst = _least(torch.cat([best, rows]), torch.cat([worst, values]), count)
    if group.size > 1:
        best, worst = _least(group.stacked(best), group.stacked(worst), count)
    return best


def _worst_of(x: Tensor, count: int, part: slice, joint: Tensor) -> tuple[Tensor, Tensor]:
    """At most `count` rows of a chunk of x, those of least log-probability, and what that is."""
    log_prob = exact(joint.logsumexp(-2))
    few = log_prob.topk(min(count, len(log_prob)), largest=False)
    return exact(x[part][few.indices.to(x.device)]), few.values


def _some(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks that have rows in this process."""
    return (block for block in blocks if len(block.x))


def _least(rows: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At most `count` different rows of the least values."""
    rows, first = _unique_rows(rows)
    values = values[first]
    keep = values.topk(min(count, len(values)), largest=False).indices
    return rows[keep], values[keep]


def _unique_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    unique, inverse = torch.unique(rows, dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(rows), device=rows.device)
    order = torch.arange(len(rows), device=rows.device)
    first = first.scatter_reduce(0, inverse, order, "amin")
    return unique, first
