"""Pages of a parquet file that hold numbers as they are: read into a block, and not decoded.

A row group holds a chunk for every column, a chunk holds pages: a header, in the compact protocol
of Thrift, then levels that say what is missing, then the numbers. Where nothing is missing,
encoded or compressed these are little-endian numbers one after the other, as in a .npy file. What
a header says has to agree with the sizes of all that it describes; every doubt is left to pyarrow.

Source: https://parquet.apache.org/docs/file-format/ (`parquet.thrift`, data pages 1 and 2).
"""

from __future__ import annotations

import functools
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

__all__ = ["PlainFile", "Stored"]

# Bytes of a page's beginning that are looked at: a header has some 50 of them.
_HEADER = 512
# Rows of a group from which on finding its pages costs less than pyarrow takes for them.
_LEAST_ROWS = 2**13
# Chunks whose pages are remembered from one pass to the next.
_MOST_KNOWN = 2**15
_PHYSICAL = {"FLOAT": np.float32, "DOUBLE": np.float64, "INT32": np.int32, "INT64": np.int64}
_DATA_PAGE, _DATA_PAGE_V2, _PLAIN = 0, 3, 0
# Kinds of fields in the compact protocol; integers are 16, 32 or 64 bits long.
_FALSE, _BINARY, _STRUCT = 2, 8, 12
_KINDS = frozenset((1, _FALSE, 4, 5, 6, _BINARY, _STRUCT))


@dataclass(frozen=True)
class _Column:
    """The numbers of a column in a row group.

    Attributes:
        dtype: as they are stored.
        pages: of each its first row within the group, how many it has, and where they lie.
    """

    dtype: np.dtype[Any]
    pages: Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Stored:
    """Some rows of a row group, still in the file."""

    file: BinaryIO
    columns: Sequence[_Column]
    start: int
    num_rows: int

    def slice(self, start: int, count: int) -> Stored:
        """Fewer of the rows."""
        return Stored(self.file, self.columns, self.start + start, count)

    def put(self, x: np.ndarray, column: int) -> None:
        """The numbers of a column, in `x (n,)`, whose dtype has room for them."""
        own = self.columns[column]
        out = x if x.dtype == own.dtype and x.flags.c_contiguous else np.empty(len(x), own.dtype)
        size = own.dtype.itemsize
        for first, count, place in own.pages:
            begin, end = max(first, self.start), min(first + count, self.start + self.num_rows)
            if begin < end:
                self.file.seek(place + (begin - first) * size)
                _read_into(self.file, out[begin - self.start : end - self.start])
        if out is not x:
            x[:] = out

    def column(self, number: int) -> np.ndarray:
        """The same in an array of its own."""
        x = np.empty(self.num_rows, self.columns[number].dtype)
        self.put(x, number)
        return x


class PlainFile:
    """Columns of a parquet file, as far as its pages hold numbers as they are.

    Args:
        path: the file, opened once more.
        parquet: a `pyarrow.parquet.ParquetFile`: what is in it.
        names: of the columns.
    """

    def __init__(self, path: Path, parquet: Any, names: Sequence[str]) -> None:
        self._metadata = parquet.metadata
        self._columns = _flat_columns(parquet, names)
        file = path.open("rb", buffering=0)
        about = os.fstat(file.fileno())
        self._opened = _Opened(path, about.st_ino, about.st_size, about.st_mtime_ns, file)

    def __enter__(self) -> PlainFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.file.close()

    def rows(self, group: int) -> Stored | None:
        """The rows of a row group; None if pyarrow should read them."""
        found = self._metadata.row_group(group)
        if not self._columns or found.num_rows < _LEAST_ROWS:
            return None
        columns = []
        for number, dtype, optional in self._columns:
            chunk = found.column(number)
            coded = chunk.compression != "UNCOMPRESSED" or chunk.dictionary_page_offset is not None
            if coded or chunk.file_path:  # or it lies in another file
                return None
            pages = _pages(
                self._opened, chunk.data_page_offset, found.num_rows, dtype.itemsize, optional
            )
            if not pages:
                return None
            columns.append(_Column(dtype, pages))
        return Stored(self._opened.file, columns, 0, found.num_rows)


@dataclass(frozen=True)
class _Opened:
    """A file, equal to itself alone as long as nobody writes to it."""

    path: Path
    inode: int
    size: int
    changed: int
    file: BinaryIO = field(compare=False)


@functools.lru_cache(maxsize=_MOST_KNOWN)
def _pages(
    opened: _Opened, place: int, n_rows: int, size: int, optional: bool
) -> tuple[tuple[int, int, int], ...]:
    """First row, number of rows and place of the numbers, of every page of a chunk.

    Nothing if in doubt. Remembered: to find pages takes longer than to begin reading them.
    """
    pages = []
    first = 0
    while first < n_rows:
        opened.file.seek(place)
        head = opened.file.read(_HEADER)
        try:
            end, whole, levels, count = _page(head, optional)
        except (IndexError, KeyError, ValueError, struct.error):
            return ()
        if whole != levels + count * size:
            return ()
        pages.append((first, count, place + end + levels))
        first, place = first + count, place + end + whole
    return tuple(pages) if first == n_rows else ()


def _flat_columns(parquet: Any, names: Sequence[str]) -> list[tuple[int, np.dtype[Any], bool]]:
    """Number, dtype, and whether numbers may be missing, of every column; none if not all are flat.

    Integers may be stored in another type than their own, and lists and structures have levels
    that say where each of them ends.
    """
    leaves = [parquet.schema.column(i) for i in range(len(parquet.schema))]
    numbers = {leaf.path: i for i, leaf in enumerate(leaves)}
    if sys.byteorder != "little" or len(numbers) < len(leaves):  # two columns of one name
        return []
    kinds, columns = parquet.schema_arrow, []
    for name in names:
        if name not in numbers:  # it is a list
            return []
        leaf = leaves[numbers[name]]
        dtype = _PHYSICAL.get(leaf.physical_type)
        flat = leaf.max_repetition_level == 0 and leaf.max_definition_level <= 1
        if dtype is None or not flat or kinds.field(name).type.to_pandas_dtype() != dtype:
            return []
        columns.append((numbers[name], np.dtype(dtype), leaf.max_definition_level == 1))
    return columns


def _page(head: bytes, optional: bool) -> tuple[int, int, int, int]:
    """Where a header ends, bytes after it, of these levels, and how many numbers; none missing."""
    fields, end = _fields(head)
    if fields[2] != fields[3]:
        raise ValueError("compressed")
    if fields[1] == _DATA_PAGE:
        encoding, count = fields[16 * 5 + 2], fields[16 * 5 + 1]
        levels = 4 + struct.unpack_from("<I", head, end)[0] if optional else 0
    elif fields[1] == _DATA_PAGE_V2:
        encoding, count = fields[16 * 8 + 4], fields[16 * 8 + 1]
        levels = fields[16 * 8 + 5] + fields[16 * 8 + 6]
    else:
        raise ValueError("no numbers")
    if encoding != _PLAIN or count <= 0 or levels < 0:
        raise ValueError("encoded, or no header at all")
    return end, fields[3], levels, count


def _fields(data: bytes) -> tuple[dict[int, int], int]:
    """Integers of a header, and where it ends. Field j of the structure in field i is `16 i + j`.

    In one loop, as there are as many headers as there are pages.
    """
    fields: dict[int, int] = {}
    outer: list[int] = []
    at = number = above = 0
    while True:
        byte = data[at]
        at += 1
        if not byte:
            if not outer:
                return fields, at
            number = outer.pop()
            above = above >> 4
            continue
        kind = byte & 15
        if byte < 16 or kind not in _KINDS:
            raise ValueError("a field that headers of pages do not have")
        number += byte >> 4
        if kind == _STRUCT:
            outer.append(number)
            above, number = above << 4 | number, 0
        elif kind > _FALSE:
            value = data[at]
            at += 1
            if value > 127:
                value &= 127
                shift = 7
                while (byte := data[at]) > 127:
                    value |= (byte & 127) << shift
                    shift += 7
                    at += 1
                value |= byte << shift
                at += 1
            if kind == _BINARY:
                at += value
            else:
                fields[above << 4 | number] = value >> 1 ^ -(value & 1)


def _read_into(file: BinaryIO, out: np.ndarray) -> None:
    """As many bytes as `out` has."""
    room = out.view(np.uint8).data
    while len(room):
        count = file.readinto(room)  # type: ignore[attr-defined]
        if not count:
            raise EOFError(f"the file ends {len(room)} bytes too early")
        room = room[count:]
