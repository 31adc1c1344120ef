"""Rows in files: one or many, of any size, read in blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..buffers import Buffers
from ..errors import InputError
from .arrays import ArraySource
from .base import Indexed
from .block import Block, join
from .files import Paths, find_files, reading
from .opening import are_paths, is_column, open_all
from .passes import through_window
from .tables import Choice, Table

__all__ = ["ShardSource", "open_files"]

_BLOCK_BYTES = 32 * 2**20
# Reading and arithmetic take turns where rows are decoded: the fewer turns, the less of them is
# spent on caches that hold other things and on threads that are not yet awake.
_DECODED_BYTES = 2 * _BLOCK_BYTES
# What stays together when rows are shuffled: enough to be worth a read of its own.
_UNIT_BYTES = 2**16
_MOST_UNITS = 2**18
# Units that can only be read from their start (row groups) are read side by side, in pieces.
_MOST_OPEN = 8
_OPEN_BYTES = 2**28
_PIECE_BYTES = 2**20
_WINDOW_BYTES = 2**25
# Text and compressed arrays are slow to read again and again: files this small are read once.
_SMALL = 64 * 2**20
_SLOW = (".csv", ".npz")
# A process may have so much more or less than an even share where files then stay whole.
_UNEVEN = 0.05


class ShardSource(Indexed):
    """A table `(N, D)` in one or many files, of which a block at a time is in memory.

    Files may differ in size, format and dtype, but not in width. Shuffled, short runs of rows come
    from all over the files, or, where a format allows no jumps, from several row groups at once.

    Args:
        paths: a file, a pattern, a folder, or a list of these, in the order of the rows.
        weights: name or number of a column of the files; or files of their own, cut as they like;
            or one number per row. At least 0.
        columns: names or numbers of the features; all numeric ones but the weights if not given.
        name: which array of `.npz` and `.safetensors` files.
        block_rows: rows per block; 32 MiB of them (of parquet 64 MiB) if not given.
        rows_of_any_shape: rows may have several axes (images); they come flattened, and `shape`
            says what they were.

    Raises:
        InputError: files that are missing, damaged, or do not fit each other. While rows are read
            it names the file and the rows.

    Example:
        >>> import numpy as np, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> for i in range(3):
        ...     np.save(folder / f"part-{i}.npy", np.full((2 + i, 4), i))
        >>> source = ShardSource(folder)
        >>> source.n_rows, source.n_features, [len(block.x) for block in source.blocks()]
        (9, 4, [9])
    """

    reads = True

    def __init__(
        self,
        paths: Paths,
        weights: Any = None,
        *,
        columns: Sequence[str] | Sequence[int] | None = None,
        name: str | None = None,
        block_rows: int | None = None,
        rows_of_any_shape: bool = False,
    ) -> None:
        files = find_files(paths)
        choice = Choice(columns, None, name)
        self._weight_files: ShardSource | None = None
        if is_column(weights, files, choice):
            choice, weights = replace(choice, weights=weights), None
        self._tables = [table for table in open_all(files, choice) if table.n_rows]
        if not self._tables:
            raise InputError(f"{files[0]}{' and the others' * (len(files) > 1)}: no rows")
        self.decodes = any(table.decodes for table in self._tables)
        buffers = Buffers()
        for table in self._tables:
            table.buffers = buffers
        self.shape = self._tables[0].shape
        if not rows_of_any_shape and len(self.shape) != 1:
            try:
                checks.check_rows((self._tables[0].n_rows, *self.shape), None)
            except InputError as error:
                raise InputError(f"{self._tables[0].path}: {error}") from None
        self.n_features = math.prod(self.shape)
        self.dtype = reduce(torch.promote_types, (t.dtype for t in self._tables))
        names = self._tables[0].names
        self.names = names if len(names) == self.n_features else ()  # a list is many features
        self._starts = np.cumsum([0, *(table.n_rows for table in self._tables)])
        self.n_rows = int(self._starts[-1])
        usual = _DECODED_BYTES if self.decodes else _BLOCK_BYTES
        self._block_rows = block_rows or max(1, usual // self.row_bytes)
        self._weigh(weights, choice.weights is not None)

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        for numbers in self._groups():
            n_rows = sum(self._tables[i].n_rows for i in numbers)
            n_blocks = -(-n_rows // self._block_rows)
            if skip >= n_blocks:
                skip -= n_blocks
                continue
            if len(numbers) > 1:
                yield self._joined(numbers)
            else:
                yield from self._stream(numbers[0], skip * self._block_rows, n_rows)
            skip = 0

    def share(self, rank: int, world: int) -> Iterator[Block]:
        """A range of rows, cut between two files or row groups where one is near."""
        start, stop = self._edge(rank, world), self._edge(rank + 1, world)
        return self._between(start, stop)

    def _edge(self, rank: int, world: int) -> int:
        """Where the rows of a process begin."""
        even = self.n_rows * rank // world
        number = min(int(np.searchsorted(self._starts, even, "right")), len(self._tables)) - 1
        table, first = self._tables[number], int(self._starts[number])
        edges = [first, first + table.n_rows]
        if table.open_bytes:  # to begin inside a unit is to read what stands before
            units = table.units(self._piece_rows(table))
            edges += [first + start for start, _ in units]
        near = min(edges, key=lambda edge: abs(edge - even))
        return near if abs(near - even) <= _UNEVEN * self.n_rows / world else even

    def _between(self, start: int, stop: int) -> Iterator[Block]:
        """Rows `start` to `stop`, file by file."""
        for number, low in enumerate(self._starts[:-1].tolist()):
            first, last = max(start - low, 0), min(stop - low, self._tables[number].n_rows)
            if first < last:
                yield from self._stream(number, first, last)

    def shuffled(self, *, seed: int, epoch: int) -> Iterator[Block]:
        rng = np.random.default_rng((seed, epoch))
        pieces = [self._piece_rows(table) for table in self._tables]
        units = [
            (number, start, stop)
            for number, table in enumerate(self._tables)
            for start, stop in table.units(pieces[number])
        ]
        waiting = [units[i] for i in rng.permutation(len(units))[::-1]]
        running: list[Iterator[Block]] = []
        most = _OPEN_BYTES // max(1, *(table.open_bytes for table in self._tables))
        while waiting or running:
            while waiting and len(running) < min(max(most, 2), _MOST_OPEN):
                number, start, stop = waiting.pop()
                running.append(self._stream(number, start, stop, pieces[number]))
            drawn = int(rng.integers(len(running)))
            block = next(running[drawn], None)
            if block is None:
                del running[drawn]
            else:
                yield block

    def batches(self, rows: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Block]:
        """As every source; where row groups are read side by side, in a larger window."""
        if not any(table.open_bytes for table in self._tables):
            return super().batches(rows, seed=seed, epoch=epoch, skip=skip)
        window = max(16 * rows, _WINDOW_BYTES // self.row_bytes)
        mixed = through_window(self.shuffled(seed=seed, epoch=epoch), rows, window, (seed, epoch))
        return itertools.islice(mixed, skip, None)

    def take(self, index: Tensor) -> Block:
        order = index.argsort()
        wanted = index[order].numpy()
        edges = np.searchsorted(wanted, self._starts)
        parts = []
        for number, table in enumerate(self._tables):
            own = wanted[edges[number] : edges[number + 1]] - self._starts[number]
            if len(own):
                with reading(table.path, int(own[0]), int(own[-1]) + 1):
                    parts.append(table.take(own, self._block_rows))
        back = order.argsort()
        x = torch.cat([x for x, _ in parts])[back]
        return Block(x, self._weights_at(index, [w for _, w in parts], back), 0, index)

    # inside -------------------------------------------------------------------------------------

    def _weigh(self, weights: Any, in_column: bool) -> None:
        self.weighted = in_column
        if weights is None:
            return
        if not are_paths(weights):
            self.weights = checks.check_weights(weights, self.n_rows)
            return
        self.weighted = True
        try:
            files = self._weight_files = ShardSource(weights, rows_of_any_shape=True)
        except InputError as error:
            raise InputError(f"weights are neither a column nor files: {error}") from error
        if (files.n_rows, files.n_features) != (self.n_rows, 1):
            raise InputError(
                f"the files of weights hold a table {(files.n_rows, files.n_features)}, the rows "
                f"need {(self.n_rows, 1)}"
            )

    def _piece_rows(self, table: Table) -> int:
        n_bytes = _PIECE_BYTES if table.open_bytes else _UNIT_BYTES
        return max(1, n_bytes // self.row_bytes, self.n_rows // _MOST_UNITS)

    def _groups(self) -> Iterator[list[int]]:
        """Numbers of the files: a large one alone, small neighbours together, in one block."""
        small: list[int] = []
        count = 0
        for number, table in enumerate(self._tables):
            if small and count + table.n_rows > self._block_rows:
                yield small
                small, count = [], 0
            small, count = [*small, number], count + table.n_rows
        yield small

    def _joined(self, numbers: list[int]) -> Block:
        return join([next(self._stream(i, 0, self._tables[i].n_rows)) for i in numbers])

    def _stream(
        self, number: int, start: int, stop: int, rows: int | None = None
    ) -> Iterator[Block]:
        """Rows `start` to `stop` of one file, `rows` (a block of them, if not given) at a time."""
        rows = self._block_rows if rows is None else rows
        table, offset = self._tables[number], int(self._starts[number])
        chunks = table.stream(start, stop, rows)
        for at in range(start, stop, rows):
            end = min(at + rows, stop)
            with reading(table.path, at, end):
                x, w = next(chunks)
                if w is not None:
                    w = checks.check_weights(w, len(x), part=True)
            if w is None:
                w = self._weights_of(offset + at, offset + end)
            yield Block(x, w, offset + at)

    def _weights_of(self, start: int, stop: int) -> Tensor | None:
        if self._weight_files is not None:
            read = self._weight_files.rows(start, stop).flatten()
            return checks.check_weights(read, len(read), part=True)
        return None if self.weights is None else self.weights[start:stop]

    def _weights_at(self, index: Tensor, columns: list[Any], back: Tensor) -> Tensor | None:
        if self.weights is not None:
            return self.weights[index]
        if self._weight_files is not None:
            w = self._weight_files.take(index).x.flatten()
        elif columns[0] is not None:
            w = torch.cat(columns)[back]
        else:
            return None
        return checks.check_weights(w, len(w), part=True)

    def whole(self) -> Block:
        """All rows at once, for those who know that there are few."""
        return join(list(self.blocks()))

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the whole, `(stop - start, D)`."""
        parts = []
        for number, (low, table) in enumerate(zip(self._starts, self._tables, strict=False)):
            first, last = max(start - int(low), 0), min(stop - int(low), table.n_rows)
            if first < last:
                parts += [block.x for block in self._stream(number, first, last, last - first)]
        return torch.cat(parts)


def open_files(paths: Paths, weights: Any = None, **options: Any) -> ShardSource | ArraySource:
    """`ShardSource(paths, weights, **options)`, read once if that is small and slow to read."""
    files = find_files(paths)
    source = ShardSource(files, weights, **options)
    small = sum(file.stat().st_size for file in files) <= _SMALL
    if not small or any(file.suffix.lower() not in _SLOW for file in files):
        return source
    whole = source.whole()
    rows = whole.x.reshape(-1, *source.shape)
    kept = ArraySource(rows, whole.w, rows_of_any_shape=len(source.shape) != 1)
    kept.names = source.names
    return kept
