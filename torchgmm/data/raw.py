"""Files whose numbers lie as they are in memory: .npy, .npz, .safetensors.

Rows are read into buffers, not memory-mapped: the resident memory stays that of a block, and a file
that was cut short while it was read is an error with a name, not a bus error.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ..errors import InputError
from .arrays import as_tensor
from .tables import Choice, Rows, Table, pick

__all__ = ["RawTable", "open_npy", "open_npz", "open_safetensors"]

# what decompression holds beside the rows
_INFLATER_BYTES = 2**20


@dataclass(frozen=True)
class _Layout:
    """Where an array lies in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool = False
    offset: int = 0
    view: torch.dtype | None = None  # what torch calls it, where NumPy has no name for it
    member: str | None = None  # of a compressed .npz, which can only be read from its start


class RawTable(Table):
    """An array of an .npy, .npz or .safetensors file."""

    def __init__(self, path: Path, layout: _Layout, choice: Choice) -> None:
        self.path = path
        self._layout = layout
        if layout.dtype.kind not in "fiub":
            raise InputError(f"{path} holds {layout.dtype}, not real numbers")
        self._width = math.prod(layout.shape[1:])
        if choice.columns is None and choice.weights is None:
            self._columns, self._weight = None, None
            self.shape = layout.shape[1:]
            self.n_features = self._width
        else:
            self._columns, self._weight = choice.resolve(path, (), self._width)
            self.n_features = len(self._columns)
            self.shape = (self.n_features,)
        self.n_rows = layout.shape[0] if layout.shape else 0
        self.open_bytes = _INFLATER_BYTES if layout.member else 0
        self._row_bytes = self._width * layout.dtype.itemsize
        self.dtype = self._rows(np.zeros((1, self._width), layout.dtype))[0].dtype
        self._check_complete()

    def stream(self, start: int, stop: int, rows: int) -> Iterator[Rows]:
        with self._open() as file:
            for a in range(start, stop, rows):
                yield self._rows(self._read(file, a, min(a + rows, stop)))

    def units(self, rows: int) -> list[tuple[int, int]]:
        return super().units(self.n_rows if self._layout.member else rows) if self.n_rows else []

    def take(self, index: np.ndarray, rows: int) -> Rows:
        if self._layout.member:
            return super().take(index, rows)
        edges = np.flatnonzero(np.diff(index) != 1) + 1
        with self._open() as file:
            runs = [
                self._read(file, int(run[0]), int(run[-1]) + 1) for run in np.split(index, edges)
            ]
        return self._rows(np.concatenate(runs))

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        if self._layout.member is None:
            with self.path.open("rb", buffering=0) as file:
                yield file
        else:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._layout.member) as file:
                yield file

    def _read(self, file: IO[bytes], start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`, `(n, width)`, all columns."""
        at, size = self._layout, self._layout.dtype.itemsize
        if not at.fortran:
            out = self.buffers.empty((stop - start, self._width), at.dtype)
            _fill(file, at.offset + start * self._row_bytes, out)
            return out
        columns = self.buffers.empty((self._width, stop - start), at.dtype)
        for j, column in enumerate(columns):
            _fill(file, at.offset + (j * self.n_rows + start) * size, column)
        return columns.T

    def _rows(self, table: np.ndarray) -> Rows:
        x = as_tensor(table)
        if self._layout.view is not None:
            x = x.view(self._layout.view)
        w = None if self._weight is None else x[:, self._weight]
        return (x if self._columns is None else x[:, self._columns]), w

    def _check_complete(self) -> None:
        if self._layout.member is not None:
            return  # a checksum tells, at the end
        size = self.path.stat().st_size - self._layout.offset
        if size < self.n_rows * self._row_bytes:
            complete = 0 if self._layout.fortran else size // self._row_bytes
            raise InputError(
                f"rows {complete}..{self.n_rows - 1} of {self.path} are missing: the file was cut "
                f"short, it has {size} of {self.n_rows * self._row_bytes} bytes"
            )


def _fill(file: IO[bytes], offset: int, out: np.ndarray) -> None:
    file.seek(offset)
    view = out.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError(f"the file ends {len(view) - done} bytes too early")
        done += count


def open_npy(path: Path, choice: Choice) -> Table:
    """A `.npy` file."""
    with path.open("rb") as file:
        layout = _npy_layout(file, path)
        return RawTable(path, replace(layout, offset=file.tell()), choice)


def open_npz(path: Path, choice: Choice) -> Table:
    """One array of an `.npz` file; a compressed one can only be read from its start."""
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        member = members[pick(path, list(members), choice.name)]
        info = archive.getinfo(member)
        with archive.open(member) as file:
            layout = replace(_npy_layout(file, path), offset=file.tell())
    if info.compress_type == zipfile.ZIP_STORED:
        start = layout.offset + _zip_start(path, info)
        return RawTable(path, replace(layout, offset=start), choice)
    if layout.fortran and len(layout.shape) > 1:
        raise InputError(
            f"{path}: {member} is compressed column by column and cannot be read in blocks: save "
            "np.ascontiguousarray(rows), or without compression"
        )
    return RawTable(path, replace(layout, member=member), choice)


def open_safetensors(path: Path, choice: Choice) -> Table:
    """One tensor of a `.safetensors` file."""
    with path.open("rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        if size > path.stat().st_size:
            raise InputError(f"{path} is no complete safetensors file")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    name = pick(path, list(header), choice.name)
    entry = header[name]
    if entry["dtype"] not in _SAFETENSORS:
        known = ", ".join(_SAFETENSORS)
        raise InputError(f"{path}: {name} is {entry['dtype']}; rows can be {known}")
    stored, view = _SAFETENSORS[entry["dtype"]]
    layout = _Layout(
        tuple(entry["shape"]),
        np.dtype(stored),
        offset=8 + size + entry["data_offsets"][0],
        view=view,
    )
    return RawTable(path, layout, choice)


_SAFETENSORS: dict[str, tuple[str, torch.dtype | None]] = {
    "F64": ("<f8", None),
    "F32": ("<f4", None),
    "F16": ("<f2", None),
    "BF16": ("<i2", torch.bfloat16),
    "I64": ("<i8", None),
    "I32": ("<i4", None),
    "I16": ("<i2", None),
    "I8": ("i1", None),
    "U8": ("u1", None),
    "BOOL": ("?", None),
}


def _npy_layout(file: IO[bytes], path: Path) -> _Layout:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise InputError(f"{path}: version {version} of the .npy format is not known")
    shape, fortran, dtype = read[version](file)
    if dtype.hasobject:
        raise InputError(f"{path} holds Python objects, which are never read: save numbers")
    return _Layout(shape, dtype, fortran and len(shape) > 1)


def _zip_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + int(name) + int(extra)
