"""Commands of many processes: who writes, where each computes, answers written apart and merged."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ..checkpoint import read_checkpoint
from ..collective import current, restarts
from ..errors import InputError
from ..fitting import Resumption
from . import say
from .outputs import Table, check_folder

__all__ = ["merged", "own_device", "own_folder", "resumption"]

_Put = Callable[[torch.Tensor, torch.Tensor], None]


def own_folder(path: str | None, names: list[str]) -> Path | None:
    """The folder that this process writes to: of several only the first does."""
    return check_folder(path, names) if path is not None and current().leads else None


def own_device(device: str) -> str:
    """`cuda` as the device of this process: each on a machine has another."""
    if device != "cuda" or current().size == 1:
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % max(1, torch.cuda.device_count())}"


def resumption(out: str | None, name: str, *, asked: bool) -> Resumption | None:
    """Where a fit goes on: if it was asked to, or if torchrun has begun the job anew.

    The first process reads the file and tells the others, whose disk may be another one.

    Args:
        out: the folder of the fit.
        name: of the checkpoint in it.
        asked: whether `--resume` was given.
    """
    if asked and out is None:
        raise InputError("--resume needs --out, the folder of the fit that was cut off")
    if out is None or not (asked or restarts()):
        return None
    group, file = current(), Path(out).absolute() / name
    content = file.read_bytes() if group.leads and file.is_file() else b""
    content = group.bytes_of_first(content)
    if group.leads and not content:
        say(f"{file.parent} holds no {name}: the fit starts at the start")
    if not content:
        return None
    if group.leads:
        return read_checkpoint(file)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / name
        copy.write_bytes(content)
        return read_checkpoint(copy)


@contextmanager
def merged(table: Table) -> Iterator[_Put]:
    """`table.opened()` for the rows that many processes put: written apart, then merged.

    Each writes a file beside the table, on a disk that all of them see; the first merges them.
    """
    group = current()
    if group.size == 1:
        with table.opened() as put:
            yield put
        return
    own = _part(table.file, group.rank)
    try:
        with own.open("wb") as file:

            def append(numbers: torch.Tensor, rows: torch.Tensor) -> None:
                for tensor in (numbers, rows):
                    np.save(file, tensor.cpu().numpy(), allow_pickle=False)

            yield append
        group.total(1.0)  # from here on all have written
        if group.leads:
            with table.opened() as put:
                for rank in range(group.size):
                    _merge(_part(table.file, rank), put)
        group.total(1.0)
    finally:
        own.unlink(missing_ok=True)


def _part(file: Path, rank: int) -> Path:
    return file.with_name(f".{file.name}.process-{rank}")


def _merge(part: Path, put: _Put) -> None:
    if not part.is_file():
        raise InputError(
            f"{part} is not there: the processes must write to a disk that all of them see"
        )
    size = part.stat().st_size
    with part.open("rb") as file:
        while file.tell() < size:
            numbers, rows = (torch.from_numpy(np.load(file, allow_pickle=False)) for _ in range(2))
            put(numbers, rows)
