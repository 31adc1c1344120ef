"""Rows and their nearest centres: labels, distances, and the sums over the rows of each centre."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..buffers import room
from ..kernels.base import has_triton
from ..kernels.memory import chunk_budget, retried
from ..linalg import long_product
from .table import is_shared

__all__ = [
    "Tiles",
    "assign",
    "is_fused",
    "nearest_labels",
    "nearest_sums",
    "parts_of",
    "tile",
    "tile_bytes",
    "tiles_for",
]

# On the CPU; elsewhere the device decides.
_CHUNK_BYTES = 32 * 2**20
_TILE_BYTES = 4 * 2**20  # of distances: they stay in the cache
_SORTED_BYTES = 32  # of a row that is sorted by its centre


class Tiles(NamedTuple):
    """What is looked at together, decided once for many steps.

    Attributes:
        sets: data sets.
        rows: of each of them; of all together where they are sorted by their centres.
        space: room for their distances; none where these are never stored.
    """

    sets: int
    rows: int
    space: Tensor


def is_fused(x: Tensor) -> bool:
    """Whether distances to all centres are never stored: on a GPU, where Triton is."""
    return x.is_cuda and has_triton()


def assign(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of every row, `(N,)`, and the squared distance to it, `(N,)`.

    Rows and centres are compared about the mean of the centres, so that an offset common to all
    costs no digits.
    """
    return retried(_chunk_bytes, x, lambda: _assigned(x, centres))


def _assigned(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    distances = torch.empty(len(x), dtype=x.dtype, device=x.device)
    for part, rows, least, label in _compared(x, centres):
        labels[part] = label
        distances[part] = least.add_((rows * rows).sum(1)).clamp_min_(0)
    return labels, distances


def nearest_labels(x: Tensor, centres: Tensor) -> Tensor:
    """The labels alone."""
    return retried(_chunk_bytes, x, lambda: _labelled(x, centres))


def _labelled(x: Tensor, centres: Tensor) -> Tensor:
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    for part, *_, label in _compared(x, centres):
        labels[part] = label  # in their place: what lies between large buffers cuts the heap up
    return labels


def _compared(x: Tensor, centres: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Part by part: rows about the mean of the centres, `|c|^2 - 2 c x` of the nearest, its number.

    What is left out is the same for all centres.
    """
    origin = centres.mean(0).to(x.dtype)  # rounded once: the same shift on both sides
    near = (centres.double() - origin.double()).to(x.dtype)
    fused = is_fused(x)
    norms = (near * near).sum(1)
    size = max(256, _chunk_bytes(x) // (8 * max(1 if fused else len(centres), x.shape[1])))
    space = room((0 if fused else min(size, len(x)), len(centres)), x)
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        rows = x[part] - origin
        if fused:
            from ..kernels import triton_nearest

            labels, away = triton_nearest.nearest(rows[None], near[None])
            yield part, rows, away[0], labels[0]
        else:
            own = space[: len(rows)]
            least, label = torch.addmm(norms, rows, near.mT, alpha=-2, out=own).min(1)
            yield part, rows, least, label


def _chunk_bytes(x: Tensor) -> int:
    return chunk_budget(None, _CHUNK_BYTES, x.device)


def tile_bytes(x: Tensor) -> int:
    """Bytes of the distances that are looked at together."""
    return chunk_budget(None, _TILE_BYTES, x.device)


def tiles_for(table: Tensor, b: int, k: int) -> Tiles:
    """What `nearest_sums` looks at together, of at most B data sets."""
    size = tile_bytes(table)
    if is_fused(table):
        return Tiles(b, size // _SORTED_BYTES, table.new_empty(0))
    sets, rows = tile(table.shape[1], k, table, size)
    return Tiles(sets, rows, room((min(sets, b) * k * rows,), table))


def nearest_sums(
    table: Tensor,
    summed: Tensor,
    theta: Tensor,
    belong: Callable[[Tensor, Tensor], Tensor],
    tiles: Tiles,
) -> Tensor:
    """Sums `(B, K, ...)` of the rows nearest to each centre, in float64.

    By a product with one-hot labels: deterministic on a GPU too, where index_add is not.

    Args:
        table: rows with a one behind, `(B | 1, N, D + 1)`.
        summed: what is summed, `(B | 1, N, ...)`.
        theta: `(B, K, D + 1)`, whose product with a row is its distance but for `|x|^2`.
        belong: which of the distances `(..., K, n)` are the least ones `(..., 1, n)`.
        tiles: of `tiles_for` them, or for more data sets.
    """
    many, most, space = tiles
    if is_fused(table):
        return _fused_sums(table, summed, theta, most)
    (b, k, _), n = theta.shape, table.shape[1]
    if many >= b and most >= n:
        return _sums_of(table, summed, theta, belong, space).double()
    sums = torch.zeros(b, k, summed.shape[-1], dtype=torch.float64, device=table.device)
    for sets, part in parts_of(b, n, many, most):
        rows, values = (
            t[:, part] if is_shared(t, theta) else t[sets, part] for t in (table, summed)
        )
        sums[sets].add_(_sums_of(rows, values, theta[sets], belong, space).double())
    return sums


def parts_of(b: int, n: int, many: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Of B data sets with N rows so many, and so many rows of them, at a time."""
    for first, start in itertools.product(range(0, b, many), range(0, n, most)):
        yield slice(first, first + many), slice(start, start + most)


def _sums_of(
    rows: Tensor,
    values: Tensor,
    theta: Tensor,
    belong: Callable[[Tensor, Tensor], Tensor],
    space: Tensor,
) -> Tensor:
    distances = _matmul(theta, rows.mT, space)
    member = belong(distances, distances.amin(-2, keepdim=True))
    if values.shape[0] > 1:
        return long_product(member, values)
    return long_product(member.flatten(0, 1), values[0]).reshape(*theta.shape[:2], -1)


def _fused_sums(table: Tensor, summed: Tensor, theta: Tensor, most: int) -> Tensor:
    """The same by kernels that sort the rows by their centres."""
    from ..kernels import triton_nearest

    (b, k, _), near = theta.shape, -0.5 * theta[..., :-1]
    sums = torch.zeros(b, k, summed.shape[-1], dtype=torch.float64, device=table.device)
    size = max(1, most // b)
    for part in (slice(s, s + size) for s in range(0, table.shape[1], size)):
        label, _ = triton_nearest.nearest(table[:, part, :-1], near)
        sums += triton_nearest.cluster_sums(summed[:, part], None, label, k)[1]
    return sums


def _matmul(left: Tensor, right: Tensor, space: Tensor) -> Tensor:
    """`left (B, K, n) @ right (B | 1, n, m)`, in `space`; one product for one data set for all."""
    (b, k, n), m = left.shape, right.shape[-1]
    out = space[: b * k * m].view(b, k, m)
    if not is_shared(right, left):
        return torch.bmm(left, right, out=out)
    torch.mm(left.reshape(b * k, n), right[0], out=out.view(b * k, m))
    return out


def tile(n: int, k: int, x: Tensor, size: int) -> tuple[int, int]:
    """How many data sets and how many of their rows have distances of so many bytes together."""
    most = size // (k * x.element_size())
    rows = min(n, max(256, most))
    return max(1, most // rows), rows
