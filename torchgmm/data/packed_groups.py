"""Groups of equal or different length, each a run of one table of rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from ..exact import tell_rounding
from .arrays import ArraySource, as_tensor
from .base import Source
from .block import Block
from .checked import Checked
from .groups import BLOCK_BYTES, Groups

__all__ = ["PackedGroups"]

# Tables side by side have one length. Groups shorter than the longest beside them are filled up
# with rows of weight 0, of which there are never more than one in five.
_FULL = 0.8


@dataclass(frozen=True)
class _Pieces:
    """Rows that stand side by side in one block: `length` rows each, where there are so many."""

    groups: Tensor  # (b,)
    starts: Tensor  # (b,) places of their first rows
    counts: Tensor  # (b,) rows

    @functools.cached_property
    def length(self) -> int:
        return int(self.counts.max())

    @functools.cached_property
    def even(self) -> bool:
        return int(self.counts.min()) == self.length

    @functools.cached_property
    def adjoin(self) -> bool:
        """Whether each begins where the one before ends."""
        return self.even and bool((self.starts.diff() == self.length).all())


class PackedGroups(Groups):
    """Groups as runs of one table `(M, D)`, or of an order of its rows.

    Nothing is copied but the rows of the block under way.

    Args:
        table: the rows of all groups.
        weights: one number per row, or None.
        order: `(M',)` numbers of rows; those of a group stand together. None: the table's own.
        starts: `(B,)` where each group begins in that order.
        counts: `(B,)` how many rows it has.
        dtype: of the computation.
        device: where blocks go.
        every: order, starts and counts with the rows of weight 0, which the others leave out; a
            group by itself is read as it was given.
    """

    def __init__(
        self,
        table: Tensor | np.ndarray,
        weights: Tensor | None,
        order: Tensor | None,
        starts: Tensor,
        counts: Tensor,
        dtype: torch.dtype,
        device: torch.device,
        every: tuple[Tensor | None, Tensor, Tensor] | None = None,
    ) -> None:
        self._table, self._weights, self._order = table, weights, order
        self._every = (order, starts, counts) if every is None else every
        self._starts, self.counts = starts, counts
        self._device, self.dtype = device, dtype
        self.n_groups, self.n_features = len(starts), int(table.shape[1])
        self.n_rows = int(counts.sum())
        self._plan: list[_Pieces] | None = None
        self._clean = False

    def only(self, index: Tensor) -> PackedGroups:
        starts, counts = self._starts[index], self.counts[index]
        order, *ends = self._every
        every = (order, ends[0][index], ends[1][index])
        own = (self._table, self._weights, self._order)
        some = PackedGroups(*own, starts, counts, self.dtype, self._device, every)
        some._clean = self._clean
        return some

    def of(self, group: int) -> Source:
        order, starts, counts = self._every
        start, count = int(starts[group]), int(counts[group])
        places: Any = slice(start, start + count)
        if order is not None:
            places = order[places]
        w = None if self._weights is None else self._weights[places]
        source = ArraySource(self._table[places], w)
        return Checked(source, self.dtype, self._device)

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        if self._plan is None:
            self._plan = list(self._pieces(self._most_rows))
        for number, pieces in enumerate(self._plan[skip:], skip):
            yield self._block(pieces, number)
        self._clean = self._clean or skip == 0

    def samples(self, size: int, generator: torch.Generator) -> Iterator[Block]:
        for number, pieces in enumerate(self._pieces(None)):
            if pieces.length <= size:
                yield self._block(pieces, number)
                continue
            pick = _picker(pieces.counts, size, generator)
            few = _Pieces(pieces.groups, pieces.starts, pieces.counts.clamp_max(size))
            yield self._block(few, number, pick)

    @property
    def _most_rows(self) -> int:
        return max(256, BLOCK_BYTES // (self.n_features * self.dtype.itemsize))

    def _pieces(self, most: int | None) -> Iterator[_Pieces]:
        """Groups, cut where they have more than `most` rows, with others of about their length."""
        groups, starts, counts = torch.arange(self.n_groups), self._starts, self.counts
        if int(counts.min()) == 0:
            there = counts > 0
            groups, starts, counts = groups[there], starts[there], counts[there]
        if not len(counts):
            return
        if most is not None and int(counts.max()) > most:
            nth, starts, counts = _cut(starts, counts, most)
            groups = groups[nth]
        if int(counts.min()) < int(counts.max()):
            order = counts.argsort(descending=True, stable=True)
            groups, starts, counts = groups[order], starts[order], counts[order]
        first = 0
        while first < len(counts):
            length = int(counts[first])
            last = int(torch.searchsorted(-counts, -_FULL * length, right=True))
            last = min(last, first + max(1, self._most_rows // length))
            some = slice(first, last)
            # a group that is cut must not come twice in one block: sums are put in their places
            if most is not None and len(groups) > self.n_groups:
                last = first + _distinct(groups[some])
                some = slice(first, last)
            yield _Pieces(groups[some], starts[some], counts[some])
            first = last

    def _block(
        self, pieces: _Pieces, number: int, pick: Callable[[Tensor], Tensor] | None = None
    ) -> Block:
        length, b = pieces.length, len(pieces.groups)
        even = pieces.even
        filled = None if even else int(pieces.counts.sum())
        w: Tensor | None
        if pieces.adjoin and pick is None and self._order is None:
            rows = slice(int(pieces.starts[0]), int(pieces.starts[0]) + b * length)
            x, w = self._read(rows)
            shape = (b, length)
        elif even and pick is None and self._order is None and self._side_by_side(length):
            shape = (b, length)
            x, w = self._tables(pieces.starts // length, length)
        else:
            within = torch.arange(length).expand(b, length)
            places = within if even else torch.minimum(within, pieces.counts[:, None] - 1)
            if pick is not None:
                places = pick(places)
            places = places + pieces.starts[:, None]
            index = places.flatten() if self._order is None else self._order[places.flatten()]
            x, w = self._read(index)
            shape = (b, length)
            if not even:
                there = (within < pieces.counts[:, None]).flatten().to(self._device)
                w = there.to(self.dtype) if w is None else w * there
        if not self._clean:
            _check(x.view(*shape, -1), self.dtype, pieces.groups)
            tell_rounding(x, self._device)
        x = x.to(self._device, self.dtype).view(*shape, -1)
        w = None if w is None else w.view(shape)
        return Block(x, w, 0, number=number, groups=pieces.groups, filled=filled)

    def _side_by_side(self, length: int) -> bool:
        """Whether the table is made of tables of that length."""
        return len(self._table) % length == 0 and not bool((self._starts % length).any())

    def _tables(self, index: Tensor, length: int) -> tuple[Tensor, Tensor | None]:
        """Whole tables of `length` rows, by number: faster than row by row."""
        w = None
        if self._weights is not None:
            w = self._weights.view(-1, length)[index].to(self._device, self.dtype)
        tables = self._table.reshape(-1, length, self.n_features)
        if isinstance(tables, Tensor):
            return tables.index_select(0, index.to(tables.device)), w
        return as_tensor(tables[index.numpy()]), w

    def _read(self, rows: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows as they are stored, and their weights as the computation wants them."""
        if isinstance(self._table, Tensor):
            index = rows if isinstance(rows, slice) else rows.to(self._table.device)
            x = self._table[index]
        else:
            x = as_tensor(self._table[rows if isinstance(rows, slice) else rows.numpy()])
        w = None if self._weights is None else self._weights[rows].to(self._device, self.dtype)
        return x, w


def _cut(starts: Tensor, counts: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Groups as pieces of at most `most` rows: their group, their start, their rows."""
    pieces = -(-counts // most)
    groups = torch.arange(len(counts)).repeat_interleave(pieces)
    ends = pieces.cumsum(0)
    nth = torch.arange(int(ends[-1])) - (ends - pieces)[groups]
    # about equal parts, so that few rows are filled up
    each = -(-counts // pieces)[groups]
    first = nth * each
    return groups, starts[groups] + first, (counts[groups] - first).clamp_max(each)


def _distinct(groups: Tensor) -> int:
    """How many come before one of them comes again."""
    seen: set[int] = set()
    for n, g in enumerate(groups.tolist()):
        if g in seen:
            return n
        seen.add(g)
    return len(groups)


def _picker(counts: Tensor, size: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Turns places below `size` into rows drawn without replacement, in groups that have more."""
    chosen = [torch.randperm(n, generator=generator)[:size].sort().values for n in counts.tolist()]

    def pick(places: Tensor) -> Tensor:
        return torch.stack([own[at] for own, at in zip(chosen, places, strict=True)])

    return pick


def _check(x: Tensor, dtype: torch.dtype, groups: Tensor) -> None:
    """Refuse what no fit can use, naming the group."""
    try:
        checks.check_finite(x, dtype)
    except InputError:
        for group, rows in zip(groups.tolist(), x, strict=True):
            checks.check_finite(rows, dtype, what=f"rows of group {group}")
        raise
