"""Tables on disk: .npy (memory-mapped), .npz, .csv, .parquet, .safetensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, MissingExtraError

__all__ = ["read_table", "table_suffixes"]


def read_table(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | Sequence[int] | None = None,
    name: str | None = None,
) -> Any:
    r"""The table in a file, `(N, D)`, as an array or tensor.

    A `.npy` file is memory-mapped, so it may be larger than memory; the others are read whole.

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
    file = Path(path)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise InputError(f"{file} {what}: give one of {', '.join(table_suffixes())}")
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise InputError(
            f"{file}: cannot read {file.suffix or 'a file without a suffix'}; "
            f"known are {', '.join(table_suffixes())}"
        )
    try:
        return reader(file, columns, name)
    except (InputError, MissingExtraError):
        raise
    except Exception as error:
        raise InputError(f"{file} cannot be read as {file.suffix}: {error}") from error


def table_suffixes() -> tuple[str, ...]:
    """The suffixes that `read_table` knows."""
    return tuple(_READERS)


def _npy(file: Path, columns: Any, name: str | None) -> Any:
    return _choose(np.load(file, mmap_mode="r", allow_pickle=False), columns, file)


def _npz(file: Path, columns: Any, name: str | None) -> Any:
    with np.load(file, allow_pickle=False) as archive:
        return _choose(archive[_pick(file, list(archive.files), name)], columns, file)


def _safetensors(file: Path, columns: Any, name: str | None) -> Any:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise MissingExtraError("safetensors", "files", f"reading {file.name}") from error
    with safe_open(file, framework="pt") as archive:
        return _choose(archive.get_tensor(_pick(file, list(archive.keys()), name)), columns, file)


def _parquet(file: Path, columns: Any, name: str | None) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "files", f"reading {file.name}") from error
    schema = pq.read_schema(file)
    if columns is not None:
        columns = [schema.names[c] if isinstance(c, int) else c for c in columns]
        _check_columns(file, list(schema.names), columns)
    else:
        columns = [f.name for f in schema if _is_numeric(pa, f.type)]
    table = pq.read_table(file, columns=columns)
    return np.stack([table[c].to_numpy() for c in columns], axis=1)


def _is_numeric(pa: Any, kind: Any) -> bool:
    return bool(
        pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    )


def _csv(file: Path, columns: Any, name: str | None) -> Any:
    header, skipped = _csv_header(file)
    if columns is not None and any(isinstance(c, str) for c in columns):
        _check_columns(file, header, columns)
        columns = [header.index(c) for c in columns]
    return np.loadtxt(
        file,
        delimiter=",",
        quotechar='"',
        skiprows=skipped,
        usecols=columns,
        ndmin=2,
        encoding="utf-8-sig",
        converters=lambda cell: float(cell.strip() or "nan"),  # text is an error, not a NaN
    )


def _csv_header(file: Path) -> tuple[list[str], int]:
    """Column names (none if the first line is numbers) and how many lines to skip."""
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines):
            if line.strip() and not line.startswith("#"):
                cells = [cell.strip().strip('"') for cell in line.split(",")]
                return ([], number) if all(map(_is_number, cells)) else (cells, number + 1)
    raise InputError(f"{file} holds no rows")


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _choose(table: Any, columns: Any, file: Path) -> Any:
    if columns is None:
        return table
    if any(isinstance(c, str) for c in columns):
        raise InputError(f"{file}: its columns have no names; give numbers")
    width = table.shape[-1]
    wrong = [c for c in columns if not -width <= c < width]
    if wrong:
        raise InputError(f"{file} has {width} columns; there is no {wrong}")
    return table[:, list(columns)]


def _pick(file: Path, names: list[str], wanted: str | None) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return str(wanted)
    said = "holds several arrays" if wanted is None else f"holds no array {wanted!r}"
    raise InputError(f"{file} {said}: choose name from {', '.join(sorted(names))}")


def _check_columns(file: Path, known: list[str], wanted: Sequence[str]) -> None:
    missing = [c for c in wanted if c not in known]
    if missing:
        raise InputError(f"{file} has no column {missing}; it has {known or 'no header'}")


_READERS: dict[str, Callable[[Path, Any, str | None], Any]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".csv": _csv,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}
