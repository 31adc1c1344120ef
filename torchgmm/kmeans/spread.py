"""k-means++: first centres that lie far from each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..buffers import room
from ..kernels.memory import chunk_budget, retried
from .nearest import parts_of, tile
from .table import Table, is_shared, with_ones

__all__ = ["kmeans_plus_plus", "spread_out", "uniforms"]

# On the CPU, where small data are not cut; elsewhere the device decides.
_BYTES = 16 * 2**20

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
    table, draws = Table.of(x, w), uniforms(len(x), n_clusters, generator)
    return retried(_bytes_for, table.rows, lambda: spread_out(table, draws))


def uniforms(b: int, n_clusters: int, generator: Generators) -> list[Tensor]:
    """What B data sets draw: for the first of K centres `(B, 1)`, for others `(B, candidates)`.

    At once, so that `spread_out` can be made again and draws nothing then.
    """
    each = [2 + int(math.log(n_clusters)) if k else 1 for k in range(n_clusters)]
    if isinstance(generator, torch.Generator):
        return [torch.rand(b, n, generator=generator, dtype=torch.float64) for n in each]
    total = sum(each)
    own = [torch.rand(total, generator=g, dtype=torch.float64) for g in generator]
    return list(torch.split(torch.stack(own), each, -1))


def spread_out(table: Table, draws: Sequence[Tensor]) -> Tensor:
    """Spread-out rows as they were given, by `uniforms`; out of memory is an error."""
    x, weight, rows = table.x, table.w, table.rows
    b, n, _ = x.shape
    first = _even(n, draws[0]).to(x.device) if weight is None else _drawn(weight, draws[0])
    chosen = [first]
    if len(draws) > 1:
        features = with_ones(rows, (rows * rows).sum(-1, keepdim=True))
        nearest = _distances(features, _at(rows, first)).squeeze(-2).clamp_min(0)
        many, most = tile(n, draws[1].shape[-1], rows, _bytes_for(rows))
    sets = torch.arange(b, device=x.device)
    for at in draws[1:]:
        candidates = _drawn(nearest.double() if weight is None else weight * nearest, at)
        centres = _at(rows, candidates)
        if many >= b and most >= n:
            distances = _lessened(features, centres, nearest)
            best = _potential(distances, weight).argmin(-1)
            nearest = distances[sets, best].clamp_min_(0)
        else:
            parts = list(parts_of(b, n, many, most))
            best = _in_parts(parts, features, centres, nearest, weight)
        chosen.append(candidates[sets, best].unsqueeze(-1))
    return _at(x, torch.cat(chosen, -1)).double()


def _bytes_for(x: Tensor) -> int:
    return chunk_budget(None, _BYTES, x.device)


def _in_parts(
    parts: Sequence[tuple[slice, slice]],
    features: Tensor,
    centres: Tensor,
    nearest: Tensor,  # overwritten by those to the best as well
    weight: Tensor | None,
) -> Tensor:
    """The best of the candidates `centres (B, C, D)`, `(B,)`: distances are made twice."""
    b, c, _ = centres.shape

    def lessened(sets: slice, part: slice, some: Tensor) -> Tensor:
        own = slice(None) if is_shared(features, centres) else sets
        return _lessened(features[own, part], some[sets], nearest[sets, part])

    total = torch.zeros(b, c, dtype=torch.float64, device=centres.device)
    for sets, part in parts:
        w = None if weight is None else weight[sets, part]
        total[sets] += _potential(lessened(sets, part, centres), w)
    best = total.argmin(-1)
    chosen = centres[torch.arange(b, device=centres.device), best].unsqueeze(-2)
    for sets, part in parts:
        nearest[sets, part] = lessened(sets, part, chosen).squeeze(-2).clamp_min_(0)
    return best


def _lessened(features: Tensor, centres: Tensor, nearest: Tensor) -> Tensor:
    """Squared distances `(B, C, N)` from the nearest centre if each of C were one, to rounding."""
    distances = _distances(features, centres)
    return torch.minimum(distances, nearest.unsqueeze(-2), out=distances)


def _potential(distances: Tensor, weight: Tensor | None) -> Tensor:
    """Sums `(B, C)` over the rows."""
    if weight is None:
        return distances.sum(-1)
    return (distances.double() @ weight.unsqueeze(-1)).squeeze(-1)


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


def _drawn(weight: Tensor, draws: Tensor) -> Tensor:
    """Row numbers with probability proportional to `weight (B, N)` for uniform draws `(B, C)`.

    By inverting the cumulative sum: torch.multinomial stops at 2^24 rows.
    """
    cumulative = weight.cumsum(-1)
    total = cumulative[:, -1:]
    if not bool((total > 0).all()):  # all rows lie on a centre already
        nothing = ~(total > 0).squeeze(-1)
        cumulative[nothing] = torch.ones_like(weight[nothing]).cumsum(-1)
    at = draws.to(weight.device) * total
    return torch.searchsorted(cumulative, at, right=True).clamp_max_(weight.shape[-1] - 1)


def _even(n: int, draws: Tensor) -> Tensor:
    """Numbers of n rows: what `_drawn` gives where weights are equal."""
    return (draws * n).long().clamp_max(n - 1)
