"""Parquet files, streamed: a column is a feature, or a list of features."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError, MissingExtraError
from .arrays import as_tensor
from .decoding import Lane, Span, filled, is_list, numbers_in, together
from .pages import PlainFile
from .tables import Choice, Rows, Table

__all__ = ["ParquetTable"]

# Without a buffer, or with `pre_buffer`, pyarrow reads a whole row group at once, however large
# it is; and with that a thread of its own reads it, for which the one that decodes waits.
_BUFFER = 2**18
# Rows of a block from which on several threads decode it, and lanes for each thread: one that
# begins late, as its core is not free at once, then has less to do than the others.
_SHARED_FROM, _MOST_THREADS, _LANES = 2**14, 8, 2
# Numbers between two columns of a block: an even power of two apart, they would take turns in a
# few places of the cache.
_BETWEEN = 16
# what pyarrow holds of every column of a row group that is open: pages, dictionary, buffers
_COLUMN_BYTES = 6 * 2**20


class ParquetTable(Table):
    """A `.parquet` file. Only the chosen columns are read, a record batch at a time.

    Columns of numbers are features; so are columns of lists of equal length (embeddings), with as
    many features as the lists have entries. A missing number is NaN. Blocks lie in memory as the
    file does, column by column: transposing them would cost as much as decoding. Large ones are
    decoded by as many threads as torch computes with, each with columns of its own.
    """

    decodes = True

    def __init__(self, path: Path, choice: Choice) -> None:
        self.path = path
        with self._open() as file:
            self.n_rows = file.metadata.num_rows
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            self._choose(file.schema_arrow, choice)
            self._edges = [0, *accumulate(groups)]
            widths = [self._width_of(file, name) for name in self.feature_columns]
        self.names = tuple(self.feature_columns)
        self.open_bytes = len(self._wanted) * _COLUMN_BYTES
        self._first_feature = [0, *accumulate(widths)]
        self.n_features = sum(widths)
        self.shape = (self.n_features,)

    def stream(self, start: int, stop: int, rows: int) -> Iterator[Rows]:
        groups = [i for i, (a, b) in enumerate(pairwise(self._edges)) if a < stop and b > start]
        if not groups:
            return
        rows = min(rows, stop - start)
        n_threads = min(torch.get_num_threads(), _MOST_THREADS) if rows >= _SHARED_FROM else 1
        lanes = self._lane_edges(n_threads)
        skip = start - self._edges[groups[0]]
        span = Span(together(groups, self._edges), skip, stop - start, rows)
        with ExitStack() as opened:
            readers = self._lanes(lanes, span, opened)
            pool = opened.enter_context(ThreadPoolExecutor(n_threads))
            features = [self._first_feature[i] for i in lanes]
            for at in range(start, stop, rows):
                x = self._room(min(rows, stop - at))
                parts = filled(readers, [x[a:b] for a, b in pairwise(features)], pool)
                if any(part.dtype != x.dtype for part, _ in parts):
                    x = np.concatenate([part for part, _ in parts])
                w = parts[-1][1]
                yield as_tensor(x).T, None if w is None else as_tensor(w)

    def units(self, rows: int) -> list[tuple[int, int]]:
        return [(a, b) for a, b in pairwise(self._edges) if a < b]

    def _lane_edges(self, n_threads: int) -> list[int]:
        """Numbers of the columns with which lanes begin, and where the last one ends."""
        width = len(self.feature_columns)
        count = min(width, _LANES * n_threads) if n_threads > 1 else 1
        return [width * i // count for i in range(count + 1)]

    def _lanes(self, edges: list[int], span: Span, opened: ExitStack) -> list[Lane]:
        file = opened.enter_context(self._open())
        if file.metadata.num_rows != self.n_rows:
            raise InputError(
                f"the file has {file.metadata.num_rows} rows now, it had {self.n_rows}"
            )
        others = [opened.enter_context(self._open(file.metadata)) for _ in edges[2:]]
        weights = [*(None for _ in others), self.weight_column]
        lanes = []
        for own, (a, b), weight in zip([file, *others], pairwise(edges), weights, strict=True):
            features = self.feature_columns[a:b]
            wanted = features if weight is None else [*features, weight]
            plain = opened.enter_context(PlainFile(self.path, own, wanted))
            lanes.append(Lane(own, features, weight, span, plain))
        return lanes

    def _room(self, n_rows: int) -> np.ndarray:
        """Where a block goes, `(D, n)`: lists lie row by row, all others column by column."""
        d = self.n_features
        if d > len(self.feature_columns):
            return self.buffers.empty((n_rows, d), self.stored).T
        return self.buffers.empty((d, n_rows + _BETWEEN), self.stored)[:, :n_rows]

    def _open(self, metadata: Any = None) -> Any:
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingExtraError("pyarrow", "files", f"reading {self.path.name}") from error
        return pq.ParquetFile(self.path, metadata=metadata, buffer_size=_BUFFER, pre_buffer=False)

    def _choose(self, schema: Any, choice: Choice) -> None:
        numeric = [f.name for f in schema if _number_type(f.type) is not None]
        if choice.columns is None:
            chosen, weight = Choice(weights=choice.weights).resolve(
                self.path, schema.names, len(schema.names)
            )
            columns = [schema.names[j] for j in chosen if schema.names[j] in numeric]
        else:
            chosen, weight = choice.resolve(self.path, schema.names, len(schema.names))
            columns = [schema.names[j] for j in chosen]
        self.feature_columns = columns
        self.weight_column = None if weight is None else schema.names[weight]
        self._wanted = columns if self.weight_column is None else [*columns, self.weight_column]
        for name in self._wanted:
            if name not in numeric:
                kind = schema.field(name).type
                raise InputError(f"{self.path}: column {name!r} holds {kind}, not numbers")
        if not columns:
            raise InputError(f"{self.path} has no column of numbers beside the weights")
        kinds = [_number_type(schema.field(name).type) for name in columns]
        self.stored = np.result_type(*kinds)
        self.dtype = as_tensor(np.zeros(1, self.stored)).dtype

    def _width_of(self, file: Any, name: str) -> int:
        kind = file.schema_arrow.field(name).type
        if not is_list(kind):
            return 1
        if hasattr(kind, "list_size"):
            return int(kind.list_size)
        for batch in file.iter_batches(1, columns=[name]):
            return len(numbers_in(batch.column(0)))
        return 1


def _number_type(kind: Any) -> Any:
    """NumPy's dtype of a column of numbers or of lists of numbers; None for any other."""
    import pyarrow as pa

    if is_list(kind):
        kind = kind.value_type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return np.dtype(kind.to_pandas_dtype())
    return None
