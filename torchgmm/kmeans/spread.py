"""k-means++: first centres that lie far from each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..buffers import room
from .table import Table, is_shared, with_ones

__all__ = ["kmeans_plus_plus", "spread_out"]

Generators = torch.Generator | Sequence[torch.Generator]


def kmeans_plus_plus(
    x: Tensor,  # (N, D) or (B, N, D)
    w: Tensor | None,  # (N,) or (B, N)
    n_clusters: int,
    generator: Generators,
) -> Tensor:
    """Spread-out rows as first centres (Arthur & Vassilvitskii 2007), greedily.

    Each centre is the best of `2 + log K` candidates drawn with probability proportional to the
    squared distance from the centres so far, as in scikit-learn.

    Args:
        x: rows.
        w: row weights.
        n_clusters: K.
        generator: what is drawn from; one for all data sets, or one for each.

    Returns:
        `(K, D)` or `(B, K, D)` in float64.
    """
    if x.dim() == 2:
        return kmeans_plus_plus(x[None], None if w is None else w[None], n_clusters, generator)[0]
    return spread_out(Table.of(x, w), n_clusters, generator)


def spread_out(table: Table, n_clusters: int, generator: Generators) -> Tensor:
    """The same for rows about their mean; the centres are rows as they were given."""
    x, weight, rows = table.x, table.w, table.rows
    b, n, _ = x.shape
    first = _even(b, n, generator, x.device) if weight is None else _draw(weight, 1, generator)
    chosen = [first]
    if n_clusters > 1:
        squares = (rows * rows).sum(-1, keepdim=True)
        features = with_ones(rows, squares)
        nearest = _distances(features, _at(rows, first)).squeeze(-2).clamp_min(0)
    sets = torch.arange(b, device=x.device)
    n_candidates = 2 + int(math.log(n_clusters))
    for _ in range(1, n_clusters):
        chances = nearest.double() if weight is None else weight * nearest
        candidates = _draw(chances, n_candidates, generator)
        distances = _distances(features, _at(rows, candidates))
        torch.minimum(distances, nearest.unsqueeze(-2), out=distances)
        if weight is None:
            potential = distances.sum(-1)
        else:
            potential = (distances.double() @ weight.unsqueeze(-1)).squeeze(-1)
        best = potential.argmin(-1)
        chosen.append(candidates[sets, best].unsqueeze(-1))
        nearest = distances[sets, best].clamp_min_(0)
    return _at(x, torch.cat(chosen, -1)).double()


def _distances(features: Tensor, centres: Tensor) -> Tensor:
    """Squared distances `(B, K, N)`, to rounding: some that should be 0 are below.

    Args:
        features: rows with their squared lengths and a one behind, `(B | 1, N, D + 2)`.
        centres: `(B, K, D)`.
    """
    (b, k, _), n = centres.shape, features.shape[1]
    squares = (centres * centres).sum(-1, keepdim=True)
    theta = torch.cat([-2 * centres, torch.ones_like(squares), squares], -1)
    out = room((b, k, n), features)
    if is_shared(features, centres):  # one product for all data sets
        torch.mm(theta.view(b * k, -1), features[0].mT, out=out.view(b * k, n))
        return out
    return torch.bmm(theta, features.mT, out=out)


def _at(x: Tensor, index: Tensor) -> Tensor:
    """The rows `index (B, C)` of `x (B, N, D)`, contiguous."""
    if len(x) == 1:
        return x[0][index]
    return x[torch.arange(len(x), device=x.device).unsqueeze(-1), index]


def _draw(weight: Tensor, count: int, generator: Generators) -> Tensor:
    """`count` row numbers with probability proportional to `weight (B, N)`, with replacement.

    By inverting the cumulative sum: torch.multinomial stops at 2^24 rows.
    """
    cumulative = weight.cumsum(-1)
    total = cumulative[:, -1:]
    if not bool((total > 0).all()):  # all rows lie on a centre already
        nothing = ~(total > 0).squeeze(-1)
        cumulative[nothing] = torch.ones_like(weight[nothing]).cumsum(-1)
    b, n = weight.shape
    at = _uniform(b, count, generator).to(weight.device) * total
    return torch.searchsorted(cumulative, at, right=True).clamp_max_(n - 1)


def _even(b: int, n: int, generator: Generators, device: torch.device) -> Tensor:
    """One row number of n for each of b, `(B, 1)`: what `_draw` gives where weights are equal."""
    return (_uniform(b, 1, generator) * n).long().clamp_max(n - 1).to(device)


def _uniform(b: int, count: int, generator: Generators) -> Tensor:
    if isinstance(generator, torch.Generator):
        return torch.rand(b, count, generator=generator, dtype=torch.float64)
    return torch.stack([torch.rand(count, generator=g, dtype=torch.float64) for g in generator])
