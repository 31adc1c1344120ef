"""Sums over chosen pairs of row and component, in tiles of rows that share a component."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..covariance.base import Whitened
from ..moments import Moments
from ..parameters import Parameters
from .dense import prepare

__all__ = ["Chosen", "Pairs", "nats_of"]

# Pairs whose responsibility is below exp(-this) / K are dismissed: all of them together weigh
# less than one rounding unit of the row.
_NATS = {torch.float32: 17.0, torch.float64: 37.0}
# Bytes of the tiles that go through the arithmetic together: they stay in the cache.
_BATCH_BYTES = 2**20
_LEAST_TILE, _LARGEST_TILE = 8, 128


def nats_of(dtype: torch.dtype, n_components: int) -> float:
    """How far below the best pair of its row a pair may be dismissed."""
    return _NATS[dtype] + math.log(n_components)


class Pairs:
    """Whitened moments over the pairs that upper bounds do not dismiss.

    Args:
        parameters: of one mixture whose components have covariances of their own.
        x: rows, whose dtype and device count.
        centre: `(K, D)`, whitened moments are about it; about the means if None.
    """

    def __init__(self, parameters: Parameters, x: Tensor, centre: Tensor | None) -> None:
        self._prepared = prepare(parameters, x)
        self._family = parameters.family
        self._k, self._d = parameters.means.shape
        self._nats = nats_of(x.dtype, self._k)
        self._about = centre
        like = self._prepared.log_norm
        self._buffers = [like.new_empty(0), like.new_empty(0), like.new_empty(0)]
        shape = parameters.family.scale_shape(self._k, self._d)
        self._weight = like.new_zeros(self._k, dtype=torch.float64)
        self._first = like.new_zeros(self._k, self._d, dtype=torch.float64)
        self._second = like.new_zeros(shape, dtype=torch.float64)
        self._log_prob = self._weight.new_zeros(())
        self._rows = self._weight.new_zeros(())

    def add(self, x: Tensor, w: Tensor | None, chosen: Chosen) -> None:
        """Rows `x (n, D)`, and which pairs of theirs to look at."""
        tiles = _Tiles(places(chosen.mask), len(x), self._k)
        joint, z = self._joint(x, tiles, 0)
        best = torch.full_like(chosen.least, -math.inf)
        best.scatter_reduce_(0, tiles.rows, joint, "amax")
        found = [(tiles, joint, z)]
        # what was left out could still come near the best of a row that is worse than its bound
        again = (best - self._nats < chosen.least).nonzero().squeeze(-1)
        late = self._late(x, chosen, best, again) if len(again) else again
        if len(late):
            more = _Tiles(late, len(x), self._k)
            found.append((more, *self._joint(x, more, 1)))
            best.scatter_reduce_(0, more.rows, found[1][1], "amax")
        total = torch.zeros_like(best)
        for pairs, joint, _ in found:
            total.index_add_(0, pairs.rows, joint.sub_(best[pairs.rows]).exp_())
        scale = self._norm(best, total, w)
        for pairs, r, z in found:
            self._scatter(pairs, r.mul_(scale[pairs.rows]), z)

    def _late(self, x: Tensor, chosen: Chosen, best: Tensor, rows: Tensor) -> Tensor:
        """Pairs of some rows that were left out and may count after all, as places in `(K, n)`."""
        late = chosen.bounds(x[rows]) >= best[rows] - self._nats
        k, at = (late & ~chosen.mask[:, rows]).nonzero(as_tuple=True)
        return k * len(x) + rows[at]

    def _norm(self, best: Tensor, total: Tensor, w: Tensor | None) -> Tensor:
        """What makes `exp(joint - best)` of every row weighted responsibilities, `(n,)`."""
        log_prob = (total.log() + best).double()
        if w is None:
            self._rows += len(best)
            self._log_prob += log_prob.sum()
            return total.reciprocal_()
        self._rows += w.double().sum()
        self._log_prob += (log_prob * w).sum()
        return total.reciprocal_().mul_(w)

    def _joint(self, x: Tensor, tiles: _Tiles, which: int) -> tuple[Tensor, Tensor]:
        """Exact log-probabilities, -inf where a tile is filled up, and whitened rows."""
        p, family = self._prepared, self._family
        z = self._buffer(which, tiles.count, tiles.size)
        joint = x.new_empty(tiles.count, tiles.size)
        limit = torch.finfo(x.dtype).max / 8
        for some, k in self._batches(tiles):
            out = z[some]
            room = self._buffer(2, len(out), tiles.size)
            rows = tiles.rows[some.start * tiles.size : some.stop * tiles.size]
            torch.index_select(x, 0, rows, out=room.view(-1, self._d))
            d = room.sub_(p.centre[k])
            family.whiten(d, p.whitener[k], None if p.shift is None else p.shift[k], out)
            squares = torch.mul(out, out, out=d).sum(-1).clamp_(max=limit)
            torch.add(p.log_norm[k], squares, alpha=-0.5, out=joint[some])
        return joint.masked_fill_(tiles.filling, -math.inf).view(-1), z

    def _scatter(self, tiles: _Tiles, r: Tensor, z: Tensor) -> None:
        r = r.view(tiles.count, tiles.size)
        first = torch.zeros_like(self._first, dtype=r.dtype)
        second = torch.zeros_like(self._second, dtype=r.dtype)
        for some, k in self._batches(tiles):
            mine, own = z[some], r[some]
            if self._about is not None:
                mine.sub_(self._about[k].unsqueeze(-2))
            squares = self._buffer(2, len(mine), tiles.size)
            if self._family.n_axes == 1:
                torch.mul(mine, mine, out=squares)
            seen = Whitened(mine, squares, own)
            second.index_add_(0, k, self._family.scatter(seen, own))
            first.index_add_(0, k, (own.unsqueeze(-2) @ mine).squeeze(-2))
        self._weight.index_add_(0, tiles.component, r.sum(-1).double())
        self._first += first
        self._second += second

    def _batches(self, tiles: _Tiles) -> Iterator[tuple[slice, Tensor]]:
        """Some tiles at a time, with their components."""
        step = max(1, _BATCH_BYTES // (tiles.size * self._d * self._buffers[0].itemsize))
        for start in range(0, tiles.count, step):
            some = slice(start, min(start + step, tiles.count))
            yield some, tiles.component[some]

    def _buffer(self, which: int, count: int, size: int) -> Tensor:
        """`(count, size, D)` from memory that grows: fresh memory costs as much as arithmetic."""
        need = count * size * self._d
        if self._buffers[which].numel() < need:
            self._buffers[which] = self._prepared.log_norm.new_empty(need + need // 4)
        return self._buffers[which][:need].view(count, size, self._d)

    def moments(self) -> Moments:
        """What was added up, about the centre, in whitened coordinates."""
        frame = torch.zeros_like(self._first) if self._about is None else self._about.double()
        return Moments(self._weight, self._first, self._second, self._log_prob, self._rows, frame)


@dataclass(frozen=True)
class Chosen:
    """Pairs of a chunk to look at first.

    Attributes:
        mask: `(K, n)`.
        least: `(n,)`; whatever the mask leaves out is below this in its row, in nats.
        bounds: gives the upper bounds `(K, m)` of rows `(m, D)` again, for a second look.
    """

    mask: Tensor
    least: Tensor
    bounds: Callable[[Tensor], Tensor]


def places(mask: Tensor) -> Tensor:
    """Where a mask that is mostly False is True, counting through it: eight entries at a time."""
    flat = mask.view(-1)
    if len(flat) % 8:
        return flat.nonzero().squeeze(-1)
    words = flat.view(torch.int64).nonzero().squeeze(-1)
    inside = flat.view(-1, 8)[words].view(-1).nonzero().squeeze(-1)
    return words[inside // 8] * 8 + inside % 8


class _Tiles:
    """Pairs of a chunk in tiles of equally many rows, each of one component.

    The last tile of a component is filled up with copies of its last pair.

    Args:
        index: the pairs as places in `(K, n)`, in any order.
        n: rows of the chunk.
        n_components: K.
    """

    def __init__(self, index: Tensor, n: int, n_components: int) -> None:
        index = index.sort().values if len(index) and bool((index.diff() < 0).any()) else index
        edges = torch.searchsorted(index, torch.arange(n_components + 1, device=index.device) * n)
        counts = edges.diff()
        usual = len(index) // (4 * n_components)
        self.size = min(
            max(2 ** (usual.bit_length() - 1), _LEAST_TILE) if usual else _LEAST_TILE, _LARGEST_TILE
        )
        tiles = -(-counts // self.size)
        every = torch.arange(n_components, device=index.device)
        self.component = every.repeat_interleave(tiles)  # (count,)
        self.count = len(self.component)
        number = torch.arange(self.count, device=index.device)
        number = number - (tiles.cumsum(0) - tiles)[self.component]  # within the component
        start = edges[:-1][self.component] + number * self.size
        place = start.unsqueeze(-1) + torch.arange(self.size, device=index.device)
        last = (edges[1:] - 1)[self.component].unsqueeze(-1)
        self.filling = place > last
        self.rows = (index % n)[torch.minimum(place, last).view(-1)]  # (count * size,)
