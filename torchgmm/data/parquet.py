"""Parquet files, streamed: a column is a feature, or a list of features."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, MissingExtraError
from .arrays import as_tensor
from .tables import Choice, Rows, Table, recut

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
    many features as the lists have entries. A missing number is NaN.
    """

    def __init__(self, path: Path, choice: Choice) -> None:
        self.path = path
        with self._open() as file:
            self.n_rows = file.metadata.num_rows
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            self._choose(file.schema_arrow, choice)
            self._edges = [0, *accumulate(groups)]
            widths = [self._width_of(file, name) for name in self._names]
        self.names = tuple(self._names)
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
            pieces = (piece for group in groups for piece in self._group(file, group, rows))
            yield from recut(pieces, start - self._edges[groups[0]], stop - start, rows)

    def units(self, rows: int) -> list[tuple[int, int]]:
        return [(a, b) for a, b in pairwise(self._edges) if a < b]

    def _group(self, file: Any, group: int, rows: int) -> Iterator[Rows]:
        """One row group; asked for several, pyarrow would hold the pages of two at a time."""
        batches = file.iter_batches(
            min(rows, _DECODED_ROWS),
            row_groups=[group],
            columns=self._wanted,
            use_threads=rows >= _THREADS_FROM,
        )
        for batch in batches:
            yield self._rows(batch)

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
        self._names = columns
        self._weight = None if weight is None else schema.names[weight]
        self._wanted = columns if self._weight is None else [*columns, self._weight]
        for name in self._wanted:
            if name not in numeric:
                kind = schema.field(name).type
                raise InputError(f"{self.path}: column {name!r} holds {kind}, not numbers")
        if not columns:
            raise InputError(f"{self.path} has no column of numbers beside the weights")
        kinds = [_number_type(schema.field(name).type) for name in columns]
        self._stored = np.result_type(*kinds)
        self.dtype = as_tensor(np.zeros(1, self._stored)).dtype

    def _width_of(self, file: Any, name: str) -> int:
        kind = file.schema_arrow.field(name).type
        if not _is_list(kind):
            return 1
        if hasattr(kind, "list_size"):
            return int(kind.list_size)
        for batch in file.iter_batches(1, columns=[name]):
            return len(_column(batch.column(0)))
        return 1

    def _rows(self, batch: Any) -> Rows:
        features = [_column(batch.column(name)) for name in self._names]
        w = None if self._weight is None else as_tensor(_column(batch.column(self._weight))[0])
        if len(features) == 1 and len(features[0]) > 1:  # one column of lists: as it lies
            return as_tensor(features[0].T), w
        # one row of the buffer per column; joining the pieces of a block transposes them
        kind = np.result_type(self._stored, *features)
        buffer = np.empty((self.n_features, batch.num_rows), kind)
        np.concatenate(features, out=buffer, casting="unsafe")
        return as_tensor(buffer).T, w


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
