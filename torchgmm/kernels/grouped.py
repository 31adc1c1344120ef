"""Screening on a GPU: kept pairs of row and component, sorted by component, as grouped products.

A row's best bound is looked at first, exactly: what is so many nats below that is dismissed, so
there is no second look. Each chunk is asked for one number, how many pairs are kept.
Responsibilities are found in the room of the bounds, and sums are joined tile by tile: equal calls
give equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..covariance.base import Whitened
from ..moments import Moments
from ..parameters import Parameters
from .base import can_launch, soft_assign
from .dense import prepare
from .pairs import nats_of
from .screen import Screen

__all__ = ["Grouped"]

_LEAST_TILE, _LARGEST_TILE = 8, 128
_INDEX_BYTES = 64  # of what is known of a pair: its place, its row, its tile


class Grouped:
    """Whitened moments over the pairs that upper bounds do not dismiss.

    Args:
        parameters: of one mixture whose components have covariances of their own.
        screen: the bounds.
        kept: how many pairs of a row are expected.
        x: rows, for dtype and device.
        centre: `(K, D)`, whitened moments are about it; about the means if None.
        budget: bytes of the buffers of a chunk.
    """

    def __init__(
        self,
        parameters: Parameters,
        screen: Screen,
        kept: float,
        x: Tensor,
        centre: Tensor | None,
        budget: int,
    ) -> None:
        self._prepared, self._family = prepare(parameters, x), parameters.family
        self._screen, self._about, self._budget = screen, centre, budget
        self._k, self._d = parameters.means.shape
        self._nats = nats_of(x.dtype, self._k)
        size = x.dtype.itemsize
        per_row = 2 * size * self._k + int((1 + kept) * (_INDEX_BYTES + 2 * size * self._d))
        per_row += screen.size * size
        self.rows = min(max(budget // per_row, 64), len(x))
        self._layout = screen.layout(self.rows, x)
        self._bounds = x.new_empty(self._k * self.rows + 1)  # and room for what fills tiles up
        width = self._d + math.prod(parameters.family.scale_shape(1, self._d))
        self._weight = x.new_zeros(self._k, dtype=torch.float64)
        self._sums = x.new_zeros(self._k, width, dtype=torch.float64)
        self._log_prob = self._weight.new_zeros(())
        self._rows = self._weight.new_zeros(())

    def add(self, x: Tensor, w: Tensor | None) -> None:
        """Rows `x (n, D)`."""
        n, room = len(x), self._bounds[: self._k * len(x) + 1]
        bounds = room[:-1].view(self._k, n)
        self._screen.bounds(x, self._layout, bounds)
        # NaN, where products overflow far out, is the largest to argmax, and never dismissed
        component, row = bounds.argmax(0).sort(stable=True)
        best = self._exact(x, _Tiles(component, row, self._k))
        least = torch.empty_like(room[: n + 1])
        least.scatter_(0, *best)
        dismissed = bounds < least[:-1] - self._nats
        component, row = dismissed.logical_not_().nonzero(as_tuple=True)  # the one look
        tiles = _Tiles(component, row, self._k)
        places, joint = self._exact(x, tiles, n)
        room.fill_(-math.inf).scatter_(0, places, joint)
        r, log_prob = soft_assign(bounds)
        log_prob = log_prob.double()
        if w is None:
            self._rows += n
            self._log_prob += log_prob.sum()
        else:
            r.mul_(w)
            self._rows += w.double().sum()
            self._log_prob += (log_prob * w).sum()
        own = room[places].view(tiles.rows.shape).masked_fill_(tiles.filling, 0)
        self._scatter(x, tiles, own)

    def _exact(self, x: Tensor, tiles: _Tiles, stride: int = 0) -> tuple[Tensor, Tensor]:
        """Where in `(K, stride)`, or in `(n,)`, the pairs stand, and their log-probabilities.

        What fills tiles up stands in one place behind all others.
        """
        p, last = self._prepared, len(x) * (self._k if stride else 1)
        joint = x.new_empty(tiles.rows.shape)
        limit = torch.finfo(x.dtype).max / 8
        for some, z in self._whitened(x, tiles):
            squares = z.square_().sum(-1).clamp_(max=limit)
            torch.add(p.log_norm[tiles.component[some]], squares, alpha=-0.5, out=joint[some])
        places = tiles.component.unsqueeze(-1) * stride + tiles.rows
        places = torch.where(tiles.filling, last, places)
        return places.flatten(), joint.flatten()

    def _whitened(self, x: Tensor, tiles: _Tiles) -> Iterator[tuple[slice, Tensor]]:
        """Whitened rows `(t, size, D)` of some tiles at a time."""
        p, size = self._prepared, tiles.rows.shape[1]
        step = max(1, self._budget // (4 * x.dtype.itemsize * size * self._d))
        for start in range(0, len(tiles.rows), step):
            some = slice(start, start + step)
            k = tiles.component[some]
            d = x[tiles.rows[some]].sub_(p.centre[k])
            shift = None if p.shift is None else p.shift[k]
            yield some, self._family.whiten(d, p.whitener[k], shift, None)

    def _scatter(self, x: Tensor, tiles: _Tiles, r: Tensor) -> None:
        """Add `r (t, size)` and the moments under it."""
        sums = x.new_empty(len(r), self._sums.shape[1])
        for some, z in self._whitened(x, tiles):
            own = r[some]
            if self._about is not None:
                z.sub_(self._about[tiles.component[some]].unsqueeze(-2))
            z.masked_fill_((own == 0).unsqueeze(-1), 0)  # an overflow far away is not felt
            sums[some, : self._d] = (own.unsqueeze(-2) @ z).squeeze(-2)
            sums[some, self._d :] = self._second(z, own).flatten(1)
        weight, sums = tiles.joined(r.sum(-1), sums)
        self._weight += weight
        self._sums += sums

    def _second(self, z: Tensor, r: Tensor) -> Tensor:
        squares = z.square()
        if self._family.n_axes == 2:
            return self._family.scatter(Whitened(z, squares, r), r)
        per_feature = (r.unsqueeze(-2) @ squares).squeeze(-2)
        return self._family.outer(per_feature, torch.ones_like(per_feature))

    def moments(self) -> Moments:
        """What was added up, about the centre, in whitened coordinates."""
        first, second = self._sums[:, : self._d], self._sums[:, self._d :]
        shape = self._family.scale_shape(self._k, self._d)
        frame = torch.zeros_like(first) if self._about is None else self._about.double()
        second = second.reshape(shape)
        return Moments(self._weight, first, second, self._log_prob, self._rows, frame)


class _Tiles:
    """Pairs in tiles of equally many rows, each of one component; nothing is read.

    Args:
        component: `(P,)`, rising.
        row: `(P,)`.
        n_components: K.
    """

    def __init__(self, component: Tensor, row: Tensor, n_components: int) -> None:
        usual = len(row) // (4 * n_components)
        size = 1 << max(0, usual.bit_length() - 1)
        size = min(max(size, _LEAST_TILE), _LARGEST_TILE)
        numbers = torch.arange(n_components + 1, device=row.device)
        edge = torch.searchsorted(component, numbers)
        self.first = torch.nn.functional.pad((-(-edge.diff() // size)).cumsum(0), (1, 0))
        # as many as there can be: some at the end are all filling
        number = torch.arange(len(row) // size + n_components, device=row.device)
        owner = torch.searchsorted(self.first[1:], number, right=True)
        self.component = owner.clamp_max(n_components - 1)  # (t,)
        start = edge[self.component] + (number - self.first[self.component]) * size
        place = start.unsqueeze(-1) + torch.arange(size, device=row.device)
        self.filling = place >= edge[self.component + 1].unsqueeze(-1)  # (t, size)
        self.rows = row[place.clamp_max(len(row) - 1)]  # (t, size)

    def joined(self, weight: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """What tiles `(t,)` and `(t, F)` come to for their components, in float64."""
        k = len(self.first) - 1
        both = (weight.new_zeros(k, dtype=torch.float64),
                sums.new_zeros(k, sums.shape[1], dtype=torch.float64))  # fmt: skip
        if can_launch(weight.device):
            from . import triton_nearest

            triton_nearest.joined(weight, sums, self.first, *both)
            return both
        for total, part in zip(both, (weight, sums), strict=True):
            total.index_add_(0, self.component, part.double())
        return both
