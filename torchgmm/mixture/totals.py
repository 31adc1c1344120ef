"""Sums over rows by which mixtures are judged, of rows in memory or in any source."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..exact import exact, exact_device
from .asking import by_chunk, weighted_rows

if TYPE_CHECKING:
    from .module import GaussianMixture

__all__ = ["Totals", "assignment_entropy", "totals"]


@dataclass(frozen=True)
class Totals:
    """Sums over rows, in float64, of each mixture of a batch; where float64 is.

    Attributes:
        log_likelihood: `(*B,)`, nats.
        entropy: `(*B,)` of the memberships, nats; 0 where nobody asked.
        weight: `(*B,)` or `()`; the number of rows where they have no weights.
        dtype: of the computation.
    """

    log_likelihood: Tensor
    entropy: Tensor
    weight: Tensor
    dtype: torch.dtype

    @property
    def mean(self) -> Tensor:
        """The mean log-likelihood, `(*B,)`, nats."""
        return (self.log_likelihood / self.weight).to(self.dtype)


@torch.no_grad()
def totals(mixture: GaussianMixture, x: Any, weights: Any, *, entropy: bool = False) -> Totals:
    """One pass over the rows; a source is read block by block, and of it no more is in memory.

    Args:
        mixture: whose.
        x: rows in memory, of one mixture also a source of rows.
        weights: of the rows, or None.
        entropy: whether to sum the entropy of the memberships too.

    Raises:
        InputError: rows or weights that cannot be used; a source for a batch of mixtures.
    """
    if not _in_blocks(x):
        rows, w = weighted_rows(mixture, x, weights)
        level, doubt, weight = _sums(mixture, rows, w, entropy)
        return Totals(level, doubt, weight, rows.dtype)
    from .reading import rows_of  # which knows the module

    source = rows_of(mixture, x, weights)
    sums = [0.0, 0.0, 0.0]
    for block in source.blocks():
        found = _sums(mixture, block.x, block.w, entropy)
        sums = [total + float(part) for total, part in zip(sums, found, strict=True)]
    level, doubt, weight = torch.tensor(
        source.group.total(*sums), dtype=torch.float64, device=exact_device(mixture.device)
    )
    return Totals(level, doubt, weight, source.dtype)


def _in_blocks(x: Any) -> bool:
    """Whether rows lie where they are better read a block at a time."""
    if isinstance(x, (Tensor, np.ndarray)):
        return isinstance(x, np.memmap)
    if isinstance(x, (list, tuple)):
        return bool(x) and isinstance(x[0], (str, os.PathLike))
    return not hasattr(x, "__array__")  # a data frame has it


def _sums(
    mixture: GaussianMixture, x: Tensor, w: Tensor | None, entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if entropy:
        log_prob, doubt = exact(by_chunk(mixture, x, _judged, (2,))).unbind(-1)
    else:
        log_prob = exact(mixture.log_prob(x))
        doubt = torch.zeros_like(log_prob)
    if w is None:
        return log_prob.sum(-1), doubt.sum(-1), log_prob.new_full((), x.shape[-2])
    w = exact(w)
    return (log_prob * w).sum(-1), (doubt * w).sum(-1), w.sum(-1)


def _judged(joint: Tensor) -> Tensor:
    return torch.stack([joint.logsumexp(-2), assignment_entropy(joint)], -1)


def assignment_entropy(joint: Tensor) -> Tensor:
    """`-sum_k r log r` over K of `log_joint (*B, K, n)`, `(*B, n)`, nats."""
    log_r = joint.log_softmax(-2)
    return -(log_r.exp() * log_r.clamp_min(torch.finfo(log_r.dtype).min)).sum(-2)
