"""Lloyd's steps: centres move to the mean of the rows nearest to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.base import members, one_hot
from ..kernels.memory import retried
from .nearest import Tiles, assign, nearest_sums, tile_bytes, tiles_for
from .spread import spread_out, uniforms
from .table import Table, is_shared, mean_of, near_mean, with_ones

__all__ = ["clustered", "kmeans"]

_TINY = torch.finfo(torch.float64).tiny


def clustered(
    x: Tensor,  # (N, D) or (B, N, D)
    w: Tensor | None,  # (N,) or (B, N)
    n_clusters: int,
    generator: torch.Generator | Sequence[torch.Generator],
    *,
    max_iter: int = 100,
    tol: float = 1e-4,
) -> Tensor:
    """`kmeans` from the centres of `kmeans_plus_plus`, with the arguments of both."""
    if x.dim() == 2:
        own = None if w is None else w[None]
        return clustered(x[None], own, n_clusters, generator, max_iter=max_iter, tol=tol)[0]
    table, draws = Table.of(x, w), uniforms(len(x), n_clusters, generator)

    # as a whole: out of memory it ends where smaller chunks from the beginning would have ended
    def run() -> Tensor:
        return _moved(table, spread_out(table, draws), max_iter, tol)

    return retried(tile_bytes, table.rows, run)


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
    table = Table.of(x, w)
    return retried(tile_bytes, table.rows, lambda: _moved(table, centres, max_iter, tol))


def _moved(given: Table, centres: Tensor, max_iter: int, tol: float) -> Tensor:
    if centres.shape[-2] == 1 and max_iter:
        return mean_of(given.x, given.w).unsqueeze(-2)
    rows, weights = given.rows, given.own_weights
    spread = near_mean(rows * rows, weights).double().mean((-2, -1))
    least: list[float] = (tol * spread).expand(len(centres)).tolist()
    # a column of ones makes one product of distances with norms, and of sums with counts
    summed = table = with_ones(rows)
    if weights is not None:
        own = weights.to(rows.dtype).unsqueeze(-1)
        summed = with_ones(rows * own, own)
    centres = centres - given.origin
    found, active = centres.clone(), torch.arange(len(centres), device=rows.device)
    tiles = tiles_for(table, len(centres), centres.shape[1])
    for _ in range(max_iter):
        centres, moves = _step(table, summed, centres, tiles)
        goes_on = [move > enough for move, enough in zip(moves, least, strict=True)]
        if all(goes_on):
            continue
        found[active] = centres
        if not any(goes_on):
            break
        left = torch.tensor(goes_on, device=rows.device)
        active, centres = active[left], centres[left]
        least = [enough for enough, on in zip(least, goes_on, strict=True) if on]
        if not is_shared(table, left):
            same, table = summed is table, table[left]
            summed = table if same else summed[left]
    else:
        found[active] = centres
    return found + given.origin


def _step(table: Tensor, summed: Tensor, old: Tensor, tiles: Tiles) -> tuple[Tensor, list[float]]:
    """Means of the rows nearest to each of the old centres `(B, K, D)`, and how far they moved.

    Args:
        table: rows with a one behind, `(B, N, D + 1)`.
        summed: weighted rows, their weights and ones, `(B, N, D + 2)`; the table, if all weigh 1.
        old: centres `(B, K, D)`.
        tiles: of `tiles_for` them, or for more data sets.
    """
    near = old.to(table.dtype)
    theta = torch.cat([-2 * near, near.square().sum(-1, keepdim=True)], -1)
    sums = nearest_sums(table, summed, theta, members, tiles)
    centres, (least, count, *moves) = _means(sums, old)
    if count != old.shape[0] * table.shape[1]:  # a row has two nearest centres: it counts once
        sums = nearest_sums(table, summed, theta, one_hot, tiles)
        centres, (least, count, *moves) = _means(sums, old)
    if least > 0:
        return centres, moves
    d = old.shape[-1]
    empty = sums[..., d] <= 0
    for one in empty.any(-1).nonzero().flatten().tolist():
        own = summed[0] if is_shared(summed, old) else summed[one]
        rows = table[0] if is_shared(table, old) else table[one]
        centres[one] = _refilled(rows[:, :d], own[:, d], centres[one], old[one], empty[one])
    return centres, (centres - old).square().sum((-2, -1)).tolist()


def _means(sums: Tensor, old: Tensor) -> tuple[Tensor, list[float]]:
    """Centres `(B, K, D)`; and the least weight of one, the number of rows, and B squared moves."""
    d = old.shape[-1]
    total = sums[..., d : d + 1]
    centres = sums[..., :d] / total.clamp_min(_TINY)
    moves = (centres - old).square().sum((-2, -1))
    told = torch.stack([total.amin(), sums[..., -1].sum()])
    return centres, torch.cat([told, moves]).tolist()


def _refilled(x: Tensor, w: Tensor, centres: Tensor, old: Tensor, empty: Tensor) -> Tensor:
    _, distances = assign(x, old)
    reach = distances * (w > 0)
    moved = empty.nonzero().squeeze(1)[: len(x)]  # more clusters than rows: the rest stay
    centres = torch.where(empty.unsqueeze(-1), old, centres)
    centres[moved] = x[reach.topk(len(moved)).indices].double()
    return centres
