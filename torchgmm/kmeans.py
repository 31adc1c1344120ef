"""k-means on tensors: k-means++ and Lloyd's steps, weighted, in chunks, on the rows' device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["assign", "kmeans", "kmeans_plus_plus"]

_CHUNK_BYTES = 32 * 2**20
_CHUNK_BYTES_ON_GPU = 128 * 2**20  # fewer launches


def kmeans_plus_plus(
    x: Tensor,  # (N, D)
    w: Tensor | None,  # (N,)
    n_clusters: int,
    generator: torch.Generator,
) -> Tensor:
    """Spread-out rows as first centres (Arthur & Vassilvitskii 2007), greedily.

    Each centre is the best of `2 + log K` candidates drawn with probability proportional to the
    squared distance from the centres so far, as in scikit-learn.

    Returns:
        `(K, D)` in float64.
    """
    weight = torch.ones(len(x), dtype=torch.float64, device=x.device) if w is None else w.double()
    origin = _mean(x, w)
    table = (x.double() - origin).to(x.dtype)  # small numbers: the products below cancel less
    norms = (table * table).sum(1)
    first = _draw(weight, 1, generator)
    chosen = [first]
    nearest = _distances(table, table[first], norms).squeeze(1)
    n_candidates = 2 + int(math.log(n_clusters))
    for _ in range(1, n_clusters):
        candidates = _draw(weight * nearest, n_candidates, generator)
        distances = torch.minimum(_distances(table, table[candidates], norms), nearest[:, None])
        if w is None:
            potential = distances.sum(0, dtype=torch.float64)
        else:
            potential = weight @ distances.double()
        best = potential.argmin()
        chosen.append(candidates[best : best + 1])
        nearest = distances[:, best].contiguous()
    return x[torch.cat(chosen)].double()


def kmeans(
    x: Tensor,  # (N, D)
    w: Tensor | None,  # (N,)
    centres: Tensor,  # (K, D)
    *,
    max_iter: int = 100,
    tol: float = 1e-4,
) -> Tensor:
    """Lloyd's steps from given centres until the labels rest or the centres move little.

    A cluster that loses its rows moves to the row that lies farthest from its centre.

    Args:
        x: rows.
        w: row weights.
        centres: the start.
        max_iter: most steps.
        tol: least sum of squared moves of the centres, relative to the mean variance.

    Returns:
        Centres `(K, D)` in float64.
    """
    origin = _mean(x, w)
    table = (x.double() - origin).to(x.dtype)
    centres = centres - origin
    spread = _mean(table.double() ** 2, w).mean()
    before: Tensor | None = None
    for _ in range(max_iter):
        labels, distances = assign(table, centres)
        if before is not None and torch.equal(before, labels):
            break
        before = labels
        moved = _centroids(table, w, labels, distances, centres)
        shift = ((moved - centres) ** 2).sum()
        centres = moved
        if float(shift) <= tol * float(spread):
            break
    return centres + origin


def assign(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of every row, `(N,)`, and the squared distance to it, `(N,)`.

    Rows and centres are compared about the mean of the centres, so that an offset common to all
    costs no digits.
    """
    origin = centres.mean(0).to(x.dtype)  # rounded once: the same shift on both sides
    near = (centres.double() - origin.double()).to(x.dtype)
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    distances = torch.empty(len(x), dtype=x.dtype, device=x.device)
    for part in _parts(x, len(centres)):
        rows = x[part] - origin
        distance = _distances(rows, near)
        torch.min(distance, dim=1, out=(distances[part], labels[part]))
    return labels, distances


def _centroids(
    x: Tensor, w: Tensor | None, labels: Tensor, distances: Tensor, old: Tensor
) -> Tensor:
    n_clusters = len(old)
    total = torch.zeros(n_clusters, dtype=torch.float64, device=x.device)
    sums = torch.zeros(n_clusters, x.shape[1], dtype=torch.float64, device=x.device)
    for part in _parts(x, n_clusters):
        # a product with the one-hot labels: deterministic on a GPU too, where index_add is not
        own = labels[part, None]
        member = x.new_zeros(len(own), n_clusters)
        if w is None:
            member.scatter_(1, own, 1.0)
        else:
            member.scatter_(1, own, w[part, None].to(x.dtype))
        total += member.sum(0).double()
        sums += (member.mT @ x[part]).double()
    empty = total <= 0
    centres = sums / total.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    if bool(empty.any()):
        reach = distances if w is None else distances * (w > 0)
        moved = empty.nonzero().squeeze(1)[: len(x)]  # more clusters than rows: the rest stay
        centres[empty] = old[empty]
        centres[moved] = x[reach.topk(len(moved)).indices].double()
    return centres


def _distances(x: Tensor, centres: Tensor, norms: Tensor | None = None) -> Tensor:
    """Squared distances `(N, K)`; `norms (N,)` are the squared lengths of the rows, if known."""
    norms = (x * x).sum(1) if norms is None else norms
    cross = torch.addmm(norms.unsqueeze(1), x, centres.mT, alpha=-2)
    return cross.add_((centres * centres).sum(1)).clamp_min_(0)


def _draw(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` row numbers with probability proportional to `weight (N,)`, with replacement.

    By inverting the cumulative sum: torch.multinomial stops at 2^24 rows.
    """
    cumulative = weight.cumsum(0)
    if not float(cumulative[-1]) > 0:  # all rows lie on a centre already
        cumulative = torch.ones_like(weight).cumsum(0)
    at = torch.rand(count, generator=generator, dtype=torch.float64).to(weight.device)
    return torch.searchsorted(cumulative, at * cumulative[-1], right=True).clamp_max(
        len(weight) - 1
    )


def _mean(x: Tensor, w: Tensor | None) -> Tensor:
    if w is None:
        return x.double().mean(0) if x.dtype == torch.float64 else x.mean(0, dtype=torch.float64)
    return (w.double() @ x.double()) / w.double().sum()


def _parts(x: Tensor, n_clusters: int) -> list[slice]:
    size = _CHUNK_BYTES_ON_GPU if x.is_cuda else _CHUNK_BYTES
    rows = max(256, size // (8 * max(n_clusters, x.shape[1])))
    return [slice(start, start + rows) for start in range(0, len(x), rows)]
