"""Questions to a mixture about a source, block by block: no array of N rows is ever made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..collective import current
from ..data import Block, Source
from ..exact import exact
from ..mixture import GaussianMixture
from ..mixture.reading import rows_of

__all__ = ["Score", "present_rows", "score_of"]

_ROWS = 65_536  # at a time: answers may be K numbers to a row


@dataclass(frozen=True)
class Score:
    """How well a mixture explains rows.

    Attributes:
        rows: how many there are.
        weight: the sum of their weights.
        log_likelihood: mean per unit of weight, nats.
        n_parameters: of the mixture.
    """

    rows: int
    weight: float
    log_likelihood: float
    n_parameters: int

    @property
    def bic(self) -> float:
        """Bayesian information criterion; lower is better."""
        return -2 * self.weight * self.log_likelihood + self.n_parameters * math.log(self.weight)

    @property
    def aic(self) -> float:
        """Akaike's information criterion; lower is better."""
        return -2 * self.weight * self.log_likelihood + 2 * self.n_parameters


def present_rows(mixture: GaussianMixture, source: Source) -> Iterator[Block]:
    """The rows of positive weight, checked, where the mixture is and in its arithmetic.

    Of several processes each gets its share.
    """
    for block in rows_of(mixture, source).blocks():
        for start in range(0, len(block.x), _ROWS):
            yield block.part(start, _ROWS)


@torch.no_grad()
def score_of(
    mixture: GaussianMixture,
    source: Source,
    put: Callable[[Tensor, Tensor], None] | None = None,
) -> Score:
    """The score of all rows; `put(numbers, log_prob)` is told every row's log-density."""
    rows, weight, total = 0, 0.0, 0.0
    for block in present_rows(mixture, source):
        log_prob = mixture.log_prob(block.x)
        w = torch.ones_like(log_prob) if block.w is None else block.w
        rows += len(log_prob)
        weight += float(exact(w).sum())
        total += float((exact(log_prob) * exact(w)).sum())
        if put is not None:
            put(block.numbers(), log_prob)
    count, weight, total = current().total(rows, weight, total)
    return Score(int(count), weight, total / weight, mixture.n_parameters)
