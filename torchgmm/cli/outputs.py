"""What a command leaves on disk: whole files or none, and refusals before the work, not after."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..store import drop_stale
from . import UsageError

__all__ = ["Table", "check_file", "check_folder", "check_table", "replaced", "tables"]


def check_folder(path: str, files: Sequence[str] = ()) -> Path:
    """The folder, made if need be, after a try that a file can be written to it.

    Args:
        path: the folder.
        files: names of the files that will be written there.

    Raises:
        InputError: it cannot be made or written to, or a folder has the name of a file.
    """
    folder = Path(path).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"nothing can be written to the folder {path}: {reason}") from error
    for name in files:
        if (folder / name).is_dir():
            raise InputError(f"{folder / name} is a folder, where a file should be written")
    return folder


def check_table(path: str) -> Path:
    """The path of a table to be written, after the same try for its folder.

    Raises:
        UsageError: a suffix that is not written.
        InputError: its folder cannot be written to.
    """
    return check_file(path, "rows are", tables())


def check_file(path: str, what: str, known: Sequence[str]) -> Path:
    """The path of a file to be written, of one of the known suffixes.

    Raises:
        UsageError: another suffix.
        InputError: its folder cannot be written to.
    """
    file = Path(path).absolute()
    if file.suffix.lower() not in known:
        raise UsageError(f"--out {path}: {what} written to {' or '.join(known)}")
    return check_folder(str(file.parent), [file.name]) / file.name


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; it takes the target's place when the block succeeds."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    drop_stale(target, f".{target.name}.")
    try:
        yield partial
        partial.replace(target)
    except OSError as error:
        raise OSError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


class Table:
    """A table on disk that is filled part by part, in any order.

    A `.npy` file is written through a memory map, so it may be larger than memory.

    Args:
        file: what `check_table` gave.
        shape: `(N,)` or `(N, columns)`.
        dtype: of the numbers.
        absent: what stands where nothing is put.
    """

    def __init__(
        self, file: Path, shape: tuple[int, ...], dtype: torch.dtype, absent: float
    ) -> None:
        self.file, self._shape, self._absent = file, shape, absent
        self._dtype = torch.empty(0, dtype=dtype).numpy().dtype

    @contextmanager
    def opened(self) -> Iterator[Callable[[torch.Tensor, torch.Tensor], None]]:
        """`put(numbers, rows)`: set the rows with these numbers. The file is there at the end."""
        write = _WRITERS[self.file.suffix.lower()]
        with (
            replaced(self.file) as partial,
            write(partial, self._shape, self._dtype) as array,
        ):
            array[...] = self._absent

            def put(numbers: torch.Tensor, rows: torch.Tensor) -> None:
                array[numbers.cpu().numpy()] = rows.cpu().numpy()

            yield put


def tables() -> tuple[str, ...]:
    """The suffixes of tables that can be written."""
    return tuple(_WRITERS)


@contextmanager
def _npy(file: Path, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    yield array
    array.flush()


@contextmanager
def _csv(file: Path, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    array = np.empty(shape, dtype=dtype)
    yield array
    digits = "%d" if dtype.kind == "i" else f"%.{9 if dtype.itemsize == 4 else 17}g"
    np.savetxt(file, array, fmt=digits, delimiter=",")  # so many digits give the number back


_WRITERS = {".npy": _npy, ".csv": _csv}
