"""Columns of a parquet file as numbers, several of them read and decoded at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .pages import PlainFile, Stored

__all__ = ["Lane", "Span", "filled", "is_list", "numbers_in", "together"]

# Rows that pyarrow decodes at a time: more cost memory, fewer cost time.
_DECODED_ROWS = 2**16


@dataclass(frozen=True)
class Span:
    """Rows of a file.

    Attributes:
        groups: numbers of the row groups that hold them; what stands together is opened together.
        skip: rows of these groups that come before the first.
        total: how many.
        rows: how many of them are asked for at a time; the last time maybe fewer.
    """

    groups: Sequence[Sequence[int]]
    skip: int
    total: int
    rows: int


class Lane:
    """Some columns of a file, one run of rows after the other.

    Lanes share nothing, so each can have a thread to itself. Pyarrow's own threads wait for each
    other after every batch, and then for the one that puts batches together.

    Args:
        file: a `pyarrow.parquet.ParquetFile` that nobody else reads from.
        features: names of columns.
        weight: name of the column of weights, where it is this lane's.
        span: which rows.
        plain: the same columns, weights last, as far as there is nothing to decode.
    """

    def __init__(
        self,
        file: Any,
        features: Sequence[str],
        weight: str | None,
        span: Span,
        plain: PlainFile,
    ) -> None:
        self._features, self._weight = features, weight
        wanted = [*features] if weight is None else [*features, weight]
        self._pieces = _pieces(_batches(file, wanted, span, plain), span)

    def fill(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The next rows, in `x (d, n)` where its dtype has room for them; and their weights."""
        weights: list[np.ndarray] = []
        at = 0
        while at < x.shape[1]:
            piece = next(self._pieces)
            end = at + piece.num_rows
            if isinstance(piece, Stored):
                self._read(piece, x[:, at:end], weights)
            else:
                x = self._decode(piece, x, at, weights)
            at = end
        return x, np.concatenate(weights) if weights else None

    def _read(self, piece: Stored, x: np.ndarray, weights: list[np.ndarray]) -> None:
        for number, row in enumerate(x):
            piece.put(row, number)
        if self._weight is not None:
            weights.append(piece.column(len(x)))

    def _decode(self, batch: Any, x: np.ndarray, at: int, weights: list[np.ndarray]) -> np.ndarray:
        """In `x` from `at` on, or in a copy whose dtype has room for it."""
        features = [numbers_in(batch.column(name)) for name in self._features]
        kind = np.result_type(x.dtype, *features)
        if kind != x.dtype:  # integers of which some are missing
            x = x.astype(kind)
        np.concatenate(features, out=x[:, at : at + batch.num_rows], casting="unsafe")
        if self._weight is not None:
            weights.append(numbers_in(batch.column(self._weight))[0])
        return x


def filled(
    lanes: Sequence[Lane], parts: Sequence[np.ndarray], pool: ThreadPoolExecutor
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """`Lane.fill` of every lane, as many at a time as there are threads."""
    if len(lanes) == 1:
        return [lanes[0].fill(parts[0])]
    return list(pool.map(Lane.fill, lanes, parts))


def together(groups: Sequence[int], edges: Sequence[int]) -> list[list[int]]:
    """Row groups, small neighbours in one list: to open one costs as much as thousands of rows.

    Large ones stay alone, as pyarrow holds the pages of two when it goes from one to the next.

    Args:
        groups: their numbers.
        edges: group `i` has the rows `edges[i]` to `edges[i + 1]`.
    """
    lists: list[list[int]] = []
    for group in groups:
        if lists and edges[group + 1] - edges[lists[-1][0]] <= _DECODED_ROWS:
            lists[-1].append(group)
        else:
            lists.append([group])
    return lists


def _batches(file: Any, columns: list[str], span: Span, plain: PlainFile) -> Iterator[Any]:
    rows = min(span.rows, _DECODED_ROWS)
    for groups in span.groups:
        stored = plain.rows(groups[0]) if len(groups) == 1 else None
        if stored is not None:
            yield stored
            continue
        yield from file.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False)


def _pieces(batches: Iterator[Any], span: Span) -> Iterator[Any]:
    """The rows of a span, cut where they are asked for."""
    done, skip = 0, span.skip
    for batch in batches:  # record batches and `Stored`, which are cut in the same way
        at, skip = min(skip, batch.num_rows), max(0, skip - batch.num_rows)
        while at < batch.num_rows and done < span.total:
            size = min(batch.num_rows - at, span.rows - done % span.rows, span.total - done)
            yield batch.slice(at, size)
            at, done = at + size, done + size
        if done == span.total:
            return
    raise EOFError(f"{span.total - done} row(s) are missing at the end")


def numbers_in(column: Any) -> np.ndarray:
    """`(width, n)`: the numbers of a column of a record batch; what is missing is NaN."""
    if not hasattr(column, "value_lengths"):
        return np.asarray(column.to_numpy(zero_copy_only=False))[None]
    if column.null_count:
        raise InputError(f"{column.null_count} row(s) have no list")
    values = np.asarray(column.flatten().to_numpy(zero_copy_only=False))
    width, rest = divmod(len(values), max(1, len(column)))
    lengths = column.value_lengths()
    if rest or (lengths.to_numpy() != width).any():
        raise InputError("lists of different lengths are no table")
    return values.reshape(-1, width).T


def is_list(kind: Any) -> bool:
    """Whether a type of pyarrow is one of lists."""
    import pyarrow as pa

    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
