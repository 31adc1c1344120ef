"""A file as a table: the interface of a format, and what the formats share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..buffers import Buffers
from ..errors import InputError

__all__ = ["Choice", "Rows", "Table", "cat_rows", "pick", "recut"]

Rows = tuple[Tensor, Tensor | None]  # (n, D) and (n,): rows and their weights


@dataclass(frozen=True)
class Choice:
    """Which numbers of a file are the rows and which the weights.

    Attributes:
        columns: names or numbers of the features; all numeric ones but the weights if not given.
        weights: name or number of the column that weighs the rows.
        name: which array of an `.npz` or `.safetensors` file.
    """

    columns: Sequence[str] | Sequence[int] | None = None
    weights: str | int | None = None
    name: str | None = None

    def resolve(self, path: Path, names: Sequence[str], width: int) -> tuple[list[int], int | None]:
        """Numbers of the feature columns, and of the weights, in a table of `width` columns."""
        weight = None if self.weights is None else _number(path, names, width, self.weights)
        if self.columns is not None:
            return [_number(path, names, width, c) for c in self.columns], weight
        return [j for j in range(width) if j != weight], weight


class Table(ABC):
    """A file as rows `(N, D)`. Nothing stays open between two calls.

    Attributes:
        path: the file.
        n_rows: N.
        n_features: D; the columns of the features only.
        shape: of one row: `(D,)`, or more axes, flattened in what is read.
        dtype: of the rows as they are stored.
        names: of the feature columns; empty where the format has none.
        open_bytes: memory that an unfinished `stream` holds beside its rows; 0 where any rows can
            be read without what stands before them.
        decodes: whether reading keeps all cores busy, however fast the disk is.
        buffers: memory for blocks; files that are read one after the other share it.
    """

    path: Path
    n_rows: int
    n_features: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    names: tuple[str, ...] = ()
    open_bytes: int = 0
    decodes: bool = False
    buffers: Buffers = Buffers()

    @abstractmethod
    def stream(self, start: int, stop: int, rows: int) -> Iterator[Rows]:
        """Rows `start` to `stop`, `rows` at a time; only the last may be fewer."""

    def units(self, rows: int) -> list[tuple[int, int]]:
        """Row ranges that can be read without what stands before them, of about `rows` rows."""
        return [(a, min(a + rows, self.n_rows)) for a in range(0, self.n_rows, rows)]

    def take(self, index: np.ndarray, rows: int) -> Rows:
        """The rows with these numbers, which ascend; at most `rows` others in memory."""
        parts: list[Rows] = []
        for start, stop in self.units(rows):
            low, high = np.searchsorted(index, (start, stop))
            if low == high:
                continue
            wanted, at = torch.from_numpy(index[low:high]), start
            for x, w in self.stream(start, int(index[high - 1]) + 1, rows):
                here = wanted[(wanted >= at) & (wanted < at + len(x))] - at
                parts.append((x[here], None if w is None else w[here]))
                at += len(x)
        return cat_rows(parts)


def cat_rows(parts: Sequence[Rows]) -> Rows:
    """Pieces of one file, joined."""
    if len(parts) == 1:
        return parts[0]
    weights = [w for _, w in parts if w is not None]
    return torch.cat([x for x, _ in parts]), torch.cat(weights) if weights else None


def recut(pieces: Iterator[Rows], skip: int, total: int, rows: int) -> Iterator[Rows]:
    """`total` rows after the first `skip`, exactly `rows` at a time, the last maybe fewer."""
    waiting: list[Rows] = []
    count = 0
    for x, w in pieces:
        drop = min(skip, len(x))
        skip -= drop
        stop = drop + total
        x, w = x[drop:stop], None if w is None else w[drop:stop]
        total -= len(x)
        waiting.append((x, w))
        count += len(x)
        while count >= rows or (not total and count):
            x, w = cat_rows(waiting)
            yield x[:rows].contiguous(), None if w is None else w[:rows]
            waiting = [(x[rows:], None if w is None else w[rows:])]
            count = len(waiting[0][0])
        if not total:
            return
    raise EOFError(f"{total} row(s) are missing at the end")


def pick(path: Path, names: list[str], wanted: str | None) -> str:
    """The array of this name; the only one if none was named."""
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return str(wanted)
    said = "holds several arrays" if wanted is None else f"holds no array {wanted!r}"
    raise InputError(f"{path} {said}: choose name from {', '.join(sorted(names))}")


def _number(path: Path, names: Sequence[str], width: int, column: str | int) -> int:
    if isinstance(column, str):
        if not names:
            raise InputError(f"{path}: its columns have no names; give numbers")
        if column not in names:
            raise InputError(f"{path} has no column {column!r}; it has {', '.join(names)}")
        return names.index(column)
    if not -width <= column < width:
        raise InputError(f"{path} has {width} columns; there is no column {column}")
    return column % width
