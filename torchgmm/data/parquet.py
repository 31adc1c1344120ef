"""Parquet files, streamed: a column is a feature, or a list of features."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, MissingExtraError
from .arrays import as_tensor
from .tables import Choice, Rows, Table

__all__ = ["ParquetTable"]

# Without a buffer pyarrow reads the whole row group, however large it is.
_BUFFER = 2**18
# Rows that pyarrow decodes at a time: more cost memory, fewer cost time.
_DECODED_ROWS = 2**16
# smaller batches than this are not worth handing to pyarrow's threads
_THREADS_FROM = 2**14
# what pyarrow holds of every column of a row group that is open: pages, dictionary, buffers
_COLUMN_BYTES = 6 * 2**20


class ParquetTable(Table):
    """A `.parquet` file. Only the chosen columns are read, a record batch at a time.

    Columns of numbers are features; so are columns of lists of equal length (embeddings), with as
    many features as the lists have entries. A missing number is NaN. Blocks lie in memory as the
    file does, column by column: transposing them would cost as much as decoding.
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
        self.n_features = sum(widths)
        self.shape = (self.n_features,)

    def stream(self, start: int, stop: int, rows: int) -> Iterator[Rows]:
        groups = [i for i, (a, b) in enumerate(pairwise(self._edges)) if a < stop and b > start]
        if not groups:
            return
        with self._open() as file:
            if file.metadata.num_rows != self.n_rows:
                raise InputError(
                    f"the file has {file.metadata.num_rows} rows now, it had {self.n_rows}"
                )
            batches = (batch for group in groups for batch in self._group(file, group, rows))
            block: _Block | None = None
            for piece in _pieces(batches, start - self._edges[groups[0]], stop - start, rows):
                block = block or _Block(self, min(rows, stop - start))
                block.add(piece)
                if not block.missing:
                    yield block.rows()
                    start, block = start + block.n_rows, None

    def units(self, rows: int) -> list[tuple[int, int]]:
        return [(a, b) for a, b in pairwise(self._edges) if a < b]

    def _group(self, file: Any, group: int, rows: int) -> Iterator[Any]:
        """One row group; asked for several, pyarrow would hold the pages of two at a time."""
        yield from file.iter_batches(
            min(rows, _DECODED_ROWS),
            row_groups=[group],
            columns=self._wanted,
            use_threads=rows >= _THREADS_FROM,
        )

    def _open(self) -> Any:
        try:
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingExtraError("pyarrow", "files", f"reading {self.path.name}") from error
        return pq.ParquetFile(self.path, buffer_size=_BUFFER)

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
        if not _is_list(kind):
            return 1
        if hasattr(kind, "list_size"):
            return int(kind.list_size)
        for batch in file.iter_batches(1, columns=[name]):
            return len(_column(batch.column(0)))
        return 1


class _Block:
    """Rows that are put together from record batches.

    Args:
        table: whose.
        n_rows: how many rows it will have.
    """

    def __init__(self, table: ParquetTable, n_rows: int) -> None:
        self._table, self._n_rows = table, n_rows
        self._weights: list[np.ndarray] = []
        self.n_rows = 0  # so far
        d = table.n_features
        if d > len(table.feature_columns):  # lists lie row by row
            self._x = table.buffers.empty((n_rows, d), table.stored).T
        else:
            self._x = table.buffers.empty((d, n_rows), table.stored)

    @property
    def missing(self) -> int:
        """How many are still to come."""
        return self._n_rows - self.n_rows

    def add(self, batch: Any) -> None:
        """The rows of a record batch, after those that are here."""
        table, end = self._table, self.n_rows + batch.num_rows
        features = [_column(batch.column(name)) for name in table.feature_columns]
        kind = np.result_type(self._x.dtype, *features)
        if kind != self._x.dtype:  # integers of which some are missing
            self._x = self._x.astype(kind)
        np.concatenate(features, out=self._x[:, self.n_rows : end], casting="unsafe")
        if table.weight_column is not None:
            self._weights.append(_column(batch.column(table.weight_column))[0])
        self.n_rows = end

    def rows(self) -> Rows:
        """What was put together."""
        w = as_tensor(np.concatenate(self._weights)) if self._weights else None
        return as_tensor(self._x).T, w


def _pieces(batches: Iterator[Any], skip: int, total: int, rows: int) -> Iterator[Any]:
    """`total` rows of record batches after the first `skip`, cut where blocks of `rows` end."""
    done = 0
    for batch in batches:
        at, skip = min(skip, batch.num_rows), max(0, skip - batch.num_rows)
        while at < batch.num_rows and done < total:
            size = min(batch.num_rows - at, rows - done % rows, total - done)
            yield batch.slice(at, size)
            at, done = at + size, done + size
        if done == total:
            return
    raise EOFError(f"{total - done} row(s) are missing at the end")


def _column(column: Any) -> np.ndarray:
    """`(width, n)`: the numbers of a column of a record batch; what is missing is NaN."""
    if not _is_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))[None]
    if column.null_count:
        raise InputError(f"{column.null_count} row(s) have no list")
    values = np.asarray(column.flatten().to_numpy(zero_copy_only=False))
    width, rest = divmod(len(values), max(1, len(column)))
    lengths = column.value_lengths()
    if rest or (lengths.to_numpy() != width).any():
        raise InputError("lists of different lengths are no table")
    return values.reshape(-1, width).T


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _number_type(kind: Any) -> Any:
    """NumPy's dtype of a column of numbers or of lists of numbers; None for any other."""
    import pyarrow as pa

    if _is_list(kind):
        kind = kind.value_type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return np.dtype(kind.to_pandas_dtype())
    return None
