"""Which files are meant, and which format reads them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError, MissingExtraError
from .parquet import ParquetTable
from .raw import open_npy, open_npz, open_safetensors
from .tables import Choice, Table
from .text import TextTable

__all__ = ["Paths", "find_files", "open_table", "read_table", "reading", "table_suffixes"]

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def read_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | Sequence[int] | None = None,
    name: str | None = None,
) -> Any:
    r"""The table in a file, `(N, D)`, as an array (as a tensor where NumPy lacks the dtype).

    A `.npy` file is memory-mapped, so it may be larger than memory; the others are read whole.
    `as_source` reads all of them in blocks.

    Args:
        path: a `.npy`, `.npz`, `.csv`, `.parquet` or `.safetensors` file.
        columns: names (CSV with a header, Parquet) or numbers of the columns to keep; all
            numeric columns if not given.
        name: which array of an `.npz` or `.safetensors` file; needed where it holds several.

    Raises:
        InputError: no such file, an unknown suffix, a damaged file, a name that is not in it.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "rows.csv"
        >>> _ = file.write_text("a,b\n1,2\n3,4\n")
        >>> read_table(file, columns=["b"]).tolist()
        [[2.0], [4.0]]
    """
    table = open_table(Path(path), Choice(columns, None, name))
    if table.path.suffix.lower() == ".npy" and columns is None:
        return np.load(table.path, mmap_mode="r", allow_pickle=False)
    with reading(table.path, 0, table.n_rows):
        rows = torch.cat([x for x, _ in table.stream(0, table.n_rows, 2**16)])
    rows = rows.reshape(-1, *table.shape)
    return rows if rows.dtype == torch.bfloat16 else rows.numpy()


def table_suffixes() -> tuple[str, ...]:
    """The suffixes of the files that can be read."""
    return tuple(_FORMATS)


def find_files(paths: Paths) -> list[Path]:
    """The files meant by a path, a pattern with `*`, a folder, or a list of these.

    The files of a folder (hidden ones and folders inside it left out) and of a pattern come in the
    order of their names.

    Raises:
        InputError: nothing is there; a folder holds no tables, or tables of several formats.
    """
    if isinstance(paths, (str, os.PathLike)):
        return _expand(os.fspath(paths))
    found = [file for path in paths for file in _expand(os.fspath(path))]
    if not found:
        raise InputError("the list of files is empty")
    return found


def _expand(path: str) -> list[Path]:
    place = Path(path).expanduser()
    if place.is_dir():
        return _inside(place)
    if glob.has_magic(path) and not place.exists():
        # Path.glob knows no absolute patterns
        found = [Path(p) for p in sorted(glob.glob(str(place), recursive=True))]  # noqa: PTH207
        files = [p for p in found if p.is_file()]
        if not files:
            raise InputError(f"no file matches {path} (looked in {Path.cwd()})")
        return files
    if not place.exists():
        hint = "" if place.is_absolute() else f" in {Path.cwd()}"
        raise InputError(f"{path} does not exist{hint}")
    return [place]


def _inside(folder: Path) -> list[Path]:
    known = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in _FORMATS and file.is_file() and file.name[0] not in "._"
    ]
    if not known:
        raise InputError(
            f"the folder {folder} holds no file with a suffix of {', '.join(_FORMATS)}: for "
            f"folders inside it give a pattern, {folder}/**/*.npy"
        )
    kinds = sorted({file.suffix.lower() for file in known})
    if len(kinds) > 1:
        raise InputError(
            f"the folder {folder} holds tables of several formats ({', '.join(kinds)}): say which "
            f"are meant, {folder}/*{kinds[0]}"
        )
    return known


def open_table(path: Path, choice: Choice) -> Table:
    """The table in a file: its shape is known, its rows are not read yet."""
    opened = _FORMATS.get(path.suffix.lower())
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {what}: give one of {', '.join(_FORMATS)}")
    if opened is None:
        raise InputError(
            f"{path}: cannot read {path.suffix or 'a file without a suffix'}; "
            f"known are {', '.join(_FORMATS)}"
        )
    with reading(path):
        return opened(path, choice)


@contextmanager
def reading(path: Path, start: int | None = None, stop: int | None = None) -> Iterator[None]:
    """Whatever goes wrong inside names the file and the rows.

    Raises:
        InputError: from the error inside.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except Exception as error:
        said = str(error) or type(error).__name__
        if start is None or stop is None:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} cannot be read as {path.suffix}: {said}") from error
        rows = f"rows {start}..{stop - 1} of {path}"
        raise InputError(f"{rows} cannot be read: {said}: mend or replace the file") from error


_FORMATS: dict[str, Callable[[Path, Choice], Table]] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".csv": TextTable,
    ".parquet": ParquetTable,
    ".safetensors": open_safetensors,
}
