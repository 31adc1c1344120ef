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
from typing import Any, BinaryIO, NamedTuple

import numpy as np

__all__ = ["PlainFile", "Stored"]

# Bytes of a page's beginning that are looked at: a header has some 50 of them.
_HEADER_BYTES = 512
# Rows of a group from which on finding its pages costs less than pyarrow takes for them.
_LEAST_ROWS = 2**13
# Chunks whose pages are remembered from one pass to the next.
_MOST_KNOWN = 2**15

# Types of numbers that are stored as they are in memory.
_PHYSICAL = {"FLOAT": np.float32, "DOUBLE": np.float64, "INT32": np.int32, "INT64": np.int64}
# Types of pages, and the encoding that is none.
_DATA_PAGE, _DATA_PAGE_V2, _PLAIN = 0, 3, 0
# Fields of a header, by number; field j of the structure in field i counts as `16 i + j`.
_TYPE, _BYTES, _BYTES_STORED = 1, 2, 3
_ROWS, _ENCODING = 16 * 5 + 1, 16 * 5 + 2
_ROWS_V2, _ENCODING_V2, _DEFINITION_V2, _REPETITION_V2 = (16 * 8 + j for j in (1, 4, 5, 6))
# Kinds of fields in the compact protocol: those up to the second have no value behind them, 4 to 6
# are integers of 16, 32 and 64 bits.
_TRUE, _FALSE, _BINARY, _STRUCT = 1, 2, 8, 12
_KINDS = frozenset((_TRUE, _FALSE, 4, 5, 6, _BINARY, _STRUCT))


class _Page(NamedTuple):
    """Where some numbers of a column are."""

    first: int  # row within the group
    rows: int
    place: int  # in the file


@dataclass(frozen=True)
class _Column:
    """The numbers of a column in a row group."""

    dtype: np.dtype[Any]  # as they are stored
    pages: Sequence[_Page]


@dataclass(frozen=True)
class Stored:
    """Some rows of a row group, still in the file; cut as a record batch of pyarrow is.

    Attributes:
        file: where they are.
        columns: the whole row group.
        start: the first of these rows within it.
        num_rows: how many they are.
    """

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
        stop = self.start + self.num_rows
        for first, rows, place in own.pages:
            begin, end = max(first, self.start), min(first + rows, stop)
            if begin < end:
                self.file.seek(place + (begin - first) * own.dtype.itemsize)
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
            place = chunk.data_page_offset
            pages = _pages(self._opened, place, found.num_rows, dtype.itemsize, optional)
            if not pages:
                return None
            columns.append(_Column(dtype, pages))
        return Stored(self._opened.file, columns, 0, found.num_rows)


@dataclass(frozen=True)
class _Opened:
    """A file, by whose name, size and time it is known again as long as nobody writes to it."""

    path: Path
    inode: int
    size: int
    changed: int
    file: BinaryIO = field(compare=False)


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


@functools.lru_cache(maxsize=_MOST_KNOWN)
def _pages(
    opened: _Opened, place: int, n_rows: int, size: int, optional: bool
) -> tuple[_Page, ...]:
    """The pages of a chunk that begins at this place; none if in doubt.

    Remembered: to find pages takes longer than to begin reading them.

    Args:
        opened: the file.
        place: of the first header.
        n_rows: of the row group.
        size: bytes of a number.
        optional: whether numbers may be missing, so that levels say which.
    """
    pages = []
    first = 0
    while first < n_rows:
        opened.file.seek(place)
        try:
            header = _page(opened.file.read(_HEADER_BYTES), optional)
        except (IndexError, KeyError, ValueError, struct.error):
            return ()
        if header.behind != header.levels + header.rows * size:
            return ()  # some are missing
        place += header.end
        pages.append(_Page(first, header.rows, place + header.levels))
        first, place = first + header.rows, place + header.behind
    return tuple(pages) if first == n_rows else ()


class _Header(NamedTuple):
    """What is needed of a page's header."""

    end: int  # bytes of the header itself
    behind: int  # bytes of the page, behind it
    levels: int  # so many of these come before the numbers
    rows: int  # whether their numbers are there or missing


def _page(head: bytes, optional: bool) -> _Header:
    """The header with which a page begins.

    Raises:
        ValueError: these are no numbers as they are.
        IndexError, KeyError, struct.error: it is no header, or a longer one than was read.
    """
    fields, end = _fields(head)
    if fields[_BYTES] != fields[_BYTES_STORED]:
        raise ValueError("compressed")
    if fields[_TYPE] == _DATA_PAGE:
        rows, encoding = fields[_ROWS], fields[_ENCODING]
        levels = 4 + struct.unpack_from("<I", head, end)[0] if optional else 0
    elif fields[_TYPE] == _DATA_PAGE_V2:
        rows, encoding = fields[_ROWS_V2], fields[_ENCODING_V2]
        levels = fields[_DEFINITION_V2] + fields[_REPETITION_V2]
    else:
        raise ValueError("no numbers")
    if encoding != _PLAIN or rows <= 0 or levels < 0:
        raise ValueError("encoded, or no header at all")
    return _Header(end, fields[_BYTES], levels, rows)


def _fields(data: bytes, at: int = 0, above: int = 0) -> tuple[dict[int, int], int]:
    """The integers of a structure and of those within it, by field, and where it ends.

    Args:
        data: in which it is.
        at: its beginning.
        above: the field of which it is the value; 0 for a header as a whole.
    """
    fields: dict[int, int] = {}
    number = 0
    while byte := data[at]:
        at, kind = at + 1, byte & 15
        number += byte >> 4  # from that of the field before
        if byte < 16 or kind not in _KINDS or above > 255:
            raise ValueError("a field that headers of pages do not have")
        if kind == _STRUCT:
            within, at = _fields(data, at, above << 4 | number)
            fields.update(within)
        elif kind > _FALSE:
            value, at = _varint(data, at)
            if kind == _BINARY:
                at += value
            else:
                fields[above << 4 | number] = value >> 1 ^ -(value & 1)  # from zigzag
    return fields, at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer in groups of seven bits, the lowest first, and where it ends."""
    value = shift = 0
    while (byte := data[at]) > 127:
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
    return value | byte << shift, at + 1


def _read_into(file: BinaryIO, out: np.ndarray) -> None:
    """As many bytes as `out` has."""
    room = out.view(np.uint8).data
    while len(room):
        count = file.readinto(room)  # type: ignore[attr-defined]
        if not count:
            raise EOFError(f"the file ends {len(room)} bytes too early")
        room = room[count:]
