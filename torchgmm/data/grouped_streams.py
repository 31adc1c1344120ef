"""Rows of many groups that arrive in batches, in any order of groups: never all in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from .arrays import as_table, as_tensor
from .base import Source
from .block import Block
from .checked import Checked
from .grouping import labelled
from .groups import Groups

__all__ = ["StreamedGroups"]

_Batch = tuple[Tensor | np.ndarray, Tensor, Tensor | None]


class StreamedGroups(Groups):
    """Groups whose rows lie scattered over a stream of batches `(rows, group, ...)`.

    A pass sorts each batch by group. Opening one takes a pass too: it counts the rows of every
    group.

    Args:
        data: an iterable of batches, or a function that makes an iterator.
        label: where the groups' numbers are in a batch: a place in the tuple, or a key.
        n_groups: B.
        dtype: of the mixtures.
        device: where blocks go.
        weight: where row weights are, if any.
    """

    def __init__(
        self,
        data: Iterable[Any] | Callable[[], Iterable[Any]],
        label: int | str,
        n_groups: int,
        dtype: torch.dtype,
        device: torch.device,
        weight: int | str | None = None,
    ) -> None:
        if isinstance(data, Iterator):
            raise InputError(
                "these batches can be read only once, and a fit reads them again and again: give "
                "a list of them, a loader, or a function that makes the iterator"
            )
        self._data, self._label, self._weight = data, label, weight
        self._device, self.reads, self.n_rows = device, True, None
        self.n_groups = n_groups
        self._place = torch.arange(n_groups)  # of every group among those that are left
        self.n_features = 0
        self.counts = torch.zeros(n_groups, dtype=torch.int64)
        stored = dtype
        for x, of, w in self._batches():
            if self.n_features not in (0, x.shape[1]):
                raise InputError(f"a batch has {x.shape[1]} columns after {self.n_features}")
            self.n_features, stored = int(x.shape[1]), as_tensor(x[:1]).dtype
            if int(of.max()) >= n_groups:
                raise InputError(
                    f"groups must lie in 0..{n_groups - 1} (negative: of none), the largest is "
                    f"{int(of.max())}"
                )
            there = of >= 0 if w is None else (of >= 0) & (w > 0)
            self.counts += of[there].bincount(minlength=n_groups)
        if not self.n_features:
            raise InputError("the batches hold no rows")
        self.dtype = checks.compute_dtype(stored, dtype, device)

    def only(self, index: Tensor) -> StreamedGroups:
        some = object.__new__(StreamedGroups)
        some.__dict__.update(self.__dict__)
        some.counts, some.n_groups = self.counts[index], len(index)
        moved = torch.full((self.n_groups + 1,), -1)
        moved[index] = torch.arange(len(index))
        some._place = moved[self._place]  # -1, of those that left before, is the last entry: -1
        return some

    def of(self, group: int) -> Source:
        return Checked(_OneGroup(self, group), self.dtype, self._device)

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        number = 0
        for x, of, w in self._batches():
            packed = labelled(x, w, self._placed(of), self.n_groups, self.dtype, self._device)
            for block in () if packed is None else packed.blocks():
                if number >= skip:
                    yield block
                number += 1

    def samples(self, size: int, generator: torch.Generator) -> Iterator[Block]:
        """One pass; of the rows of each group those with the least of random keys are kept."""
        seed = int(torch.randint(2**62, (), generator=generator))
        rng = np.random.default_rng(seed)
        kept: tuple[Tensor, ...] | None = None
        for x, of, w in self._batches():
            place = self._placed(of)
            there = place >= 0 if w is None else (place >= 0) & (w > 0)
            index = there.nonzero().squeeze(-1)
            rows = as_tensor(x)[index.to(as_tensor(x).device)].to(self._device, self.dtype)
            weights = torch.ones(len(index)).double() if w is None else w[index]
            fresh = (rows, place[index], weights, torch.from_numpy(rng.random(len(index))))
            kept = fresh if kept is None else _joined(kept, fresh)
            kept = _least(kept, size)
        assert kept is not None
        rows, place, weights, _ = kept
        given = None if self._weight is None else weights
        packed = labelled(rows, given, place, self.n_groups, self.dtype, self._device)
        if packed is not None:
            yield from packed.samples(size, generator)

    def _placed(self, of: Tensor) -> Tensor:
        """Groups' numbers among those that are left, -1 for others."""
        return torch.where(of >= 0, self._place[of.clamp_min(0)], -1)

    def _batches(self) -> Iterator[_Batch]:
        for batch in self._data() if callable(self._data) else self._data:
            x = as_table(_part(batch, 0 if not isinstance(batch, Mapping) else _rows_key(batch)))
            checks.check_rows(tuple(x.shape), None)
            of = as_tensor(as_table(_part(batch, self._label))).cpu()
            if tuple(of.shape) != (len(x),) or of.dtype.is_floating_point:
                raise InputError(
                    f"groups must be one integer per row, ({len(x)},), got {of.dtype} of shape "
                    f"{tuple(of.shape)}"
                )
            w = None
            if self._weight is not None:
                w = checks.check_weights(_part(batch, self._weight), len(x), part=True).cpu()
            yield x, of.long(), w


class _OneGroup(Source):
    """The rows of one group, wherever they are in the stream."""

    reads = True

    def __init__(self, groups: StreamedGroups, group: int) -> None:
        self._groups, self._group = groups, group
        self.n_features, self.dtype = groups.n_features, groups.dtype
        self.n_rows = int(groups.counts[group])

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        start = number = 0
        for x, of, w in self._groups._batches():
            mine = (self._groups._placed(of) == self._group).nonzero().squeeze(-1)
            if len(mine):
                rows = as_tensor(x)
                block = Block(
                    rows[mine.to(rows.device)], None if w is None else w[mine], start, None, number
                )
                if number >= skip:
                    yield block
                start, number = start + len(mine), number + 1


def _part(batch: Any, place: int | str) -> Any:
    try:
        return batch[place]
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"a batch of type {type(batch).__name__} has no part {place!r}") from error


def _rows_key(batch: Mapping[str, Any]) -> str:
    tables = [key for key, value in batch.items() if np.ndim(value) == 2]
    if len(tables) != 1:
        raise InputError(f"a batch must hold one table of rows, it has {tables}")
    return tables[0]


def _joined(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(pair) for pair in zip(a, b, strict=True))


def _least(kept: tuple[Tensor, ...], size: int) -> tuple[Tensor, ...]:
    """The rows with the `size` least keys of every group."""
    _, place, _, key = kept
    counts = place.bincount()
    if not len(counts) or int(counts.max()) <= size:
        return kept
    order = torch.from_numpy(np.lexsort((key.numpy(), place.numpy())))
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[place[order]]
    few = order[rank < size].sort().values
    return tuple(t[few.to(t.device)] for t in kept)
