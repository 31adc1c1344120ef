"""k-means on tensors: k-means++ and Lloyd's steps, weighted, in chunks, on the rows' device.

Rows are `(N, D)`, or `(B, N, D)` for B data sets at once; these know nothing of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .buffers import room
from .kernels.base import has_triton, members, one_hot

__all__ = ["assign", "kmeans", "kmeans_plus_plus"]

_CHUNK_BYTES = 32 * 2**20
_TILE_BYTES = 4 * 2**20  # of distances: they stay in the cache
_TILE_BYTES_ON_GPU = 128 * 2**20  # a launch, and a look at the labels, want work
_FUSED_ROWS = 4 * 2**20  # that are sorted at once: some 100 MiB
_TINY = torch.finfo(torch.float64).tiny


def kmeans_plus_plus(
    x: Tensor,  # (N, D) or (B, N, D)
    w: Tensor | None,  # (N,) or (B, N)
    n_clusters: int,
    generator: torch.Generator | Sequence[torch.Generator],
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
    b, n, _ = x.shape
    weight = None if w is None else w.double()
    first = _even(b, n, generator, x.device) if weight is None else _draw(weight, 1, generator)
    if n_clusters == 1:
        return _rows(x, first).double()
    table, _ = _centred(x, w)  # small numbers: the products below cancel less
    norms = (table * table).sum(-1)
    chosen = [first]
    nearest = _distances(table, _rows(table, chosen[0]), norms).squeeze(-2)
    n_candidates = 2 + int(math.log(n_clusters))
    sets = torch.arange(b, device=x.device)
    for _ in range(1, n_clusters):
        chances = nearest.double() if weight is None else weight * nearest
        candidates = _draw(chances, n_candidates, generator)
        distances = _distances(table, _rows(table, candidates), norms)
        distances = torch.minimum(distances, nearest.unsqueeze(-2))
        if weight is None:
            potential = distances.sum(-1, dtype=torch.float64)
        else:
            potential = (distances.double() @ weight.unsqueeze(-1)).squeeze(-1)
        best = potential.argmin(-1)
        chosen.append(candidates[sets, best].unsqueeze(-1))
        nearest = distances[sets, best]
    return _rows(x, torch.cat(chosen, -1)).double()


def kmeans(
    x: Tensor,  # (N, D) or (B, N, D)
    w: Tensor | None,  # (N,) or (B, N)
    centres: Tensor,  # (K, D) or (B, K, D)
    *,
    max_iter: int = 100,
    tol: float = 1e-4,
) -> Tensor:
    """Lloyd's steps from given centres until they move little.

    A cluster that loses its rows moves to the row that lies farthest from its centre. Of several
    data sets each has its own end, and leaves the computation then.

    Args:
        x: rows.
        w: row weights.
        centres: the start.
        max_iter: most steps.
        tol: least sum of squared moves of the centres, relative to the mean variance.

    Returns:
        Centres `(K, D)` or `(B, K, D)` in float64.
    """
    if x.dim() == 2:
        own = None if w is None else w[None]
        return kmeans(x[None], own, centres[None], max_iter=max_iter, tol=tol)[0]
    if centres.shape[-2] == 1 and max_iter:
        return _mean(x, w).unsqueeze(-2)
    table, origin = _centred(x, w)
    centres = centres - origin
    some = None if w is None else w[: len(table)]
    least = tol * _mean(table * table, some).mean(-1).expand(len(x))
    # a column of ones makes one product of distances with norms, and of sums with counts
    ones = table.new_ones(*table.shape[:-1], 1)
    table = torch.cat([table, ones], -1)
    summed = table
    if some is not None:
        summed = torch.cat([table * some.to(table.dtype).unsqueeze(-1), ones], -1)
    found, active = centres.clone(), torch.arange(len(x), device=x.device)
    for _ in range(max_iter):
        moved = _centroids(table, summed, centres)
        goes_on = ((moved - centres) ** 2).sum((-2, -1)) > least
        centres = moved
        if not bool(goes_on.all()):
            found[active] = centres
            if not bool(goes_on.any()):
                break
            active, centres, least = active[goes_on], centres[goes_on], least[goes_on]
            if not _shared(table, goes_on):
                same, table = summed is table, table[goes_on]
                summed = table if same else summed[goes_on]
    else:
        found[active] = centres
    return found + origin


def assign(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of every row, `(N,)`, and the squared distance to it, `(N,)`.

    Rows and centres are compared about the mean of the centres, so that an offset common to all
    costs no digits.
    """
    origin = centres.mean(0).to(x.dtype)  # rounded once: the same shift on both sides
    near = (centres.double() - origin.double()).to(x.dtype)
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    distances = torch.empty(len(x), dtype=x.dtype, device=x.device)
    if is_fused(x):
        from .kernels import triton_nearest

        size = max(256, _CHUNK_BYTES // (x.element_size() * x.shape[1]))
        for part in (slice(s, s + size) for s in range(0, len(x), size)):
            rows = x[part] - origin
            label, away = triton_nearest.nearest(rows[None], near[None])
            labels[part] = label[0]
            distances[part] = away[0].add_((rows * rows).sum(1)).clamp_min_(0)
        return labels, distances
    size = max(256, _CHUNK_BYTES // (8 * max(len(centres), x.shape[1])))
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        rows = x[part] - origin
        cross = torch.addmm((rows * rows).sum(1, keepdim=True), rows, near.mT, alpha=-2)
        distance = cross.add_((near * near).sum(1)).clamp_min_(0)
        torch.min(distance, dim=1, out=(distances[part], labels[part]))
    return labels, distances


def _centroids(table: Tensor, summed: Tensor, old: Tensor) -> Tensor:
    """Means of the rows nearest to each of the old centres, `(B, K, D)`.

    Args:
        table: rows with a one behind, `(B, N, D + 1)`.
        summed: weighted rows, their weights and ones, `(B, N, D + 2)`; the table, if all weigh 1.
        old: centres `(B, K, D)`.
    """
    d, near = old.shape[-1], old.to(table.dtype)
    theta = torch.cat([-2 * near, near.square().sum(-1, keepdim=True)], -1)
    sums = _sums(table, summed, theta, members)
    total = sums[..., d]
    least, count = torch.stack([total.amin(), sums[..., -1].sum()]).tolist()
    if count != len(old) * table.shape[1]:  # a row has two nearest centres: it counts once
        sums = _sums(table, summed, theta, one_hot)
        total = sums[..., d]
        least = float(total.amin())
    centres = sums[..., :d] / total.clamp_min(_TINY).unsqueeze(-1)
    if least <= 0:
        empty = total <= 0
        for one in empty.any(-1).nonzero().flatten().tolist():
            own = summed[0] if _shared(summed, old) else summed[one]
            rows = table[0] if _shared(table, old) else table[one]
            centres[one] = _refilled(rows[:, :d], own[:, d], centres[one], old[one], empty[one])
    return centres


def _sums(
    table: Tensor, summed: Tensor, theta: Tensor, belong: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Sums `(B, K, ...)` of the rows nearest to each centre, in float64.

    By a product with one-hot labels: deterministic on a GPU too, where index_add is not.
    """
    if is_fused(table):
        return _fused_sums(table, summed, theta)
    b, k, _ = theta.shape
    width = summed.shape[-1]
    sums = torch.zeros(b, k, width, dtype=torch.float64, device=table.device)
    space: Tensor | None = None
    for sets, part in _tiles(b, table.shape[1], k, table):
        rows, values = (t[:, part] if _shared(t, theta) else t[sets, part] for t in (table, summed))
        own = theta[sets]
        if space is None:  # of the first tile, the largest
            space = room((len(own) * k * rows.shape[1],), table)
        distances = _matmul(own, rows.mT, space)
        member = belong(distances, distances.amin(-2, keepdim=True))
        sums[sets].add_(_matmul(member, values).double())
    return sums


def is_fused(x: Tensor) -> bool:
    """Whether distances to all centres are never stored: on a GPU, where Triton is."""
    return x.is_cuda and has_triton()


def _fused_sums(table: Tensor, summed: Tensor, theta: Tensor) -> Tensor:
    """`_sums` by kernels that sort the rows by their centres."""
    from .kernels import triton_nearest

    (b, k, _), near = theta.shape, -0.5 * theta[..., :-1]
    sums = torch.zeros(b, k, summed.shape[-1], dtype=torch.float64, device=table.device)
    size = max(1, _FUSED_ROWS // b)
    for part in (slice(s, s + size) for s in range(0, table.shape[1], size)):
        label, _ = triton_nearest.nearest(table[:, part, :-1], near)
        sums += triton_nearest.cluster_sums(summed[:, part], None, label, k)[1]
    return sums


def _matmul(left: Tensor, right: Tensor, space: Tensor | None = None) -> Tensor:
    """`left (B, K, n) @ right (B | 1, n, m)`: one product, where all data sets are one."""
    (b, k, n), m = left.shape, right.shape[-1]
    out = None if space is None else space[: b * k * m].view(b, k, m)
    if not _shared(right, left):
        return torch.bmm(left, right, out=out)
    flat = None if out is None else out.view(b * k, m)
    return torch.mm(left.reshape(b * k, n), right[0], out=flat).view(b, k, m)


def _refilled(x: Tensor, w: Tensor, centres: Tensor, old: Tensor, empty: Tensor) -> Tensor:
    _, distances = assign(x, old)
    reach = distances * (w > 0)
    moved = empty.nonzero().squeeze(1)[: len(x)]  # more clusters than rows: the rest stay
    centres = torch.where(empty.unsqueeze(-1), old, centres)
    centres[moved] = x[reach.topk(len(moved)).indices].double()
    return centres


def _distances(x: Tensor, centres: Tensor, norms: Tensor) -> Tensor:
    """Squared distances `(B, K, N)`; `norms (B, N)` are the squared lengths of the rows."""
    cross = _products((centres * centres).sum(-1, keepdim=True), centres, x)
    return cross.add_(norms.unsqueeze(-2)).clamp_min_(0)


def _centred(x: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows about their mean, and that mean `(B, 1, D)`; once, where all data sets are one."""
    if len(x) > 1 and x.stride(0) == 0 and (w is None or w.stride(0) == 0):
        table, origin = _centred(x[:1], None if w is None else w[:1])
        return table, origin
    origin = _mean(x, w).unsqueeze(-2).to(x.dtype)  # a number that rows could hold: no digit lost
    return x - origin, origin.double()


def _shared(x: Tensor, each: Tensor) -> bool:
    """Whether rows `(1, N, D)` stand for all data sets."""
    return len(x) == 1 < len(each)


def _products(norms: Tensor, centres: Tensor, x: Tensor) -> Tensor:
    """`norms - 2 c x (B, K, N)` for `norms (B, K, 1)`, centres `(B, K, D)`, `x (B, N, D)`."""
    if not _shared(x, centres):
        return torch.baddbmm(norms, centres, x.mT, alpha=-2)
    b, k, d = centres.shape
    flat = torch.addmm(norms.reshape(-1, 1), centres.reshape(-1, d), x[0].mT, alpha=-2)
    return flat.view(b, k, -1)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """The rows `index (B, C)` of `x (B, N, D)`."""
    if _shared(x, index):
        return x[0][index]
    return x[torch.arange(len(x), device=x.device).unsqueeze(-1), index]


def _draw(
    weight: Tensor, count: int, generator: torch.Generator | Sequence[torch.Generator]
) -> Tensor:
    """`count` row numbers with probability proportional to `weight (B, N)`, with replacement.

    By inverting the cumulative sum: torch.multinomial stops at 2^24 rows.
    """
    cumulative = weight.cumsum(-1)
    nothing = ~(cumulative[:, -1] > 0)  # all rows lie on a centre already
    if bool(nothing.any()):
        cumulative[nothing] = torch.ones_like(weight[nothing]).cumsum(-1)
    b, n = weight.shape
    at = _uniform(b, count, generator).to(weight.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, at, right=True).clamp_max(n - 1)


def _even(
    b: int,
    n: int,
    generator: torch.Generator | Sequence[torch.Generator],
    device: torch.device,
) -> Tensor:
    """One row number of n for each of b, `(B, 1)`: what `_draw` gives where weights are equal."""
    return (_uniform(b, 1, generator) * n).long().clamp_max(n - 1).to(device)


def _uniform(b: int, count: int, generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
    if isinstance(generator, torch.Generator):
        return torch.rand(b, count, generator=generator, dtype=torch.float64)
    return torch.stack([torch.rand(count, generator=g, dtype=torch.float64) for g in generator])


def _mean(x: Tensor, w: Tensor | None) -> Tensor:
    if w is None:
        return x.mean(-2, dtype=torch.float64)
    weight = w.double()
    total = weight.sum(-1, keepdim=True)
    return (weight.unsqueeze(-2) @ x.double()).squeeze(-2) / total


def _tiles(b: int, n: int, k: int, x: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of the data sets and of their rows, whose distances fit the cache together."""
    most = (_TILE_BYTES_ON_GPU if x.is_cuda else _TILE_BYTES) // (k * x.element_size())
    rows = min(n, max(256, most))
    sets = max(1, most // rows)
    for first in range(0, b, sets):
        for start in range(0, n, rows):
            yield slice(first, first + sets), slice(start, start + rows)
