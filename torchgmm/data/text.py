"""Comma-separated text, read in pieces that begin at known lines."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from .arrays import as_tensor
from .tables import Choice, Rows, Table, recut

__all__ = ["TextTable"]

_PIECE = 2**22  # bytes of text that are parsed at a time


class TextTable(Table):
    """A `.csv` file, with or without a header.

    Opening reads it once, to count its lines. Empty cells are NaN; blank lines and lines that begin
    with `#` are left out; text is an error.
    """

    dtype = torch.float64

    def __init__(self, path: Path, choice: Choice) -> None:
        self.path = path
        header, begin, width = _header(path)
        self._columns, self._weight = choice.resolve(path, header, width)
        self._used = self._columns if self._weight is None else [*self._columns, self._weight]
        self._all = self._used == list(range(width))
        self.names = tuple(header[j] for j in self._columns) if header else ()
        self.n_features = len(self._columns)
        self.shape = (self.n_features,)
        self.open_bytes = _PIECE * 4  # text, and what is made of it
        self._pieces = list(_pieces(path, begin))  # (first byte, first row); the last is the end
        self.n_rows = self._pieces[-1][1]

    def stream(self, start: int, stop: int, rows: int) -> Iterator[Rows]:
        filled = ((a, b) for a, b in pairwise(self._pieces) if a[1] < b[1])
        spans = [(a, b) for a, b in filled if a[1] < stop and b[1] > start]
        if spans:
            yield from recut(self._parsed(spans), start - spans[0][0][1], stop - start, rows)

    def units(self, rows: int) -> list[tuple[int, int]]:
        return [(a, b) for (_, a), (_, b) in pairwise(self._pieces) if a < b]

    def _parsed(self, spans: list[tuple[tuple[int, int], tuple[int, int]]]) -> Iterator[Rows]:
        with self.path.open("rb") as file:
            for (begin, first), (end, last) in spans:
                file.seek(begin)
                text = file.read(end - begin)
                table = _parse(text, None if self._all else self._used)
                if len(text) < end - begin or table.shape != (last - first, len(self._used)):
                    raise EOFError(
                        f"a table of shape {table.shape} where {(last - first, len(self._used))} "
                        "was expected: the file has changed, or its lines differ in length"
                    )
                rows = as_tensor(table)
                if self._weight is None:
                    yield rows, None
                else:
                    yield rows[:, :-1], rows[:, -1]


def _parse(text: bytes, columns: list[int] | None) -> np.ndarray:
    options: dict[str, Any] = {"usecols": columns, "ndmin": 2, "encoding": "utf-8"}
    options |= {"delimiter": ",", "quotechar": '"', "dtype": np.float64}
    try:
        return np.loadtxt(io.BytesIO(text), **options)
    except ValueError:  # an empty cell, or text: the slow way tells them apart
        options["converters"] = lambda cell: float(cell.strip() or "nan")
        return np.loadtxt(io.BytesIO(text), **options)


def _header(path: Path) -> tuple[list[str], int, int]:
    """Names of the columns (none if the first line is numbers), where rows begin, the width."""
    with path.open("rb") as file:
        begin = 0
        for line in file:
            text = line.decode("utf-8-sig").strip()
            if text and not text.startswith("#"):
                cells = [cell.strip().strip('"') for cell in text.split(",")]
                if all(map(_is_number, cells)):
                    marked = line.startswith(b"\xef\xbb\xbf")
                    return [], begin + (3 if marked else 0), len(cells)
                return cells, begin + len(line), len(cells)
            begin += len(line)
    raise InputError(f"{path} holds no rows")


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _pieces(path: Path, begin: int) -> Iterator[tuple[int, int]]:
    """The first byte and the first row of every piece, and at last those of the end."""
    row = 0
    with path.open("rb") as file:
        file.seek(begin)
        while text := file.read(_PIECE):
            text += file.readline()
            yield begin, row
            begin += len(text)
            row += _count_rows(text)
    yield begin, row


def _count_rows(text: bytes) -> int:
    simple = not (b"#" in text or b"\n\n" in text or b"\r\n\r\n" in text or text[:1] in b"\r\n")
    if simple:
        return text.count(b"\n") + (not text.endswith(b"\n"))
    lines = (line.strip() for line in text.split(b"\n"))
    return sum(1 for line in lines if line and not line.startswith(b"#"))
