"""Rows in memory or in a memory map: tensors and NumPy arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import InputError
from .base import Indexed
from .block import Block

__all__ = ["ArraySource", "as_table", "as_tensor", "dense"]

# A block is what one call of a kernel gets: large enough that its fixed cost vanishes, small
# enough that a copy of it (another dtype, a memory map, a device) is never felt.
_BLOCK_BYTES = 32 * 2**20
# Rows on a GPU are there already; four times as many make four times fewer launches.
_BLOCK_BYTES_ON_GPU = 4 * _BLOCK_BYTES
# rows of a memory map that stay together when batches are drawn at random: a page or so. Rows in
# memory go one by one: neighbours in a file are often alike, and a batch should not be.
_RUN = 16


class ArraySource(Indexed):
    """A table `(N, D)`: a tensor, an ndarray, a memory map. Rows are never copied as a whole.

    Args:
        x: the rows; read-only, non-contiguous and foreign-endian arrays are fine.
        weights: one number per row, at least 0.
        block_rows: rows per block, for tests and for those who know better.
        rows_of_any_shape: rows may have several axes (images); they come flattened, and `shape`
            says what they were.

    Raises:
        InputError: not a table of real numbers, empty, or weights that do not fit.
    """

    def __init__(
        self,
        x: Any,
        weights: Any = None,
        *,
        block_rows: int | None = None,
        rows_of_any_shape: bool = False,
    ) -> None:
        self._x = as_table(x)
        self.shape = tuple(self._x.shape[1:])
        if rows_of_any_shape and self._x.ndim and 0 not in self._x.shape:
            self._x = self._x.reshape(len(self._x), -1)
        shape = tuple(self._x.shape)
        checks.check_rows(shape, None)
        self.n_rows: int = shape[0]
        self.n_features = shape[1]
        names = getattr(x, "columns", ())  # of a data frame
        self.names = tuple(map(str, names)) if len(names) == self.n_features else ()
        self.weights = None if weights is None else checks.check_weights(weights, self.n_rows)
        self.reads = isinstance(x, np.memmap)
        self.dtype = _torch_dtype(self._x)
        checks.compute_dtype(self.dtype, torch.float32)  # refuses complex rows here, not later
        size = max(1, self._x[:1].nbytes)
        there = isinstance(self._x, Tensor) and self._x.is_cuda
        usual = _BLOCK_BYTES_ON_GPU if there else _BLOCK_BYTES
        self._block_rows = block_rows or max(1, usual // size)
        self.on_host = not there

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        return self._between(skip * self._block_rows, self.n_rows)

    def share(self, rank: int, world: int) -> Iterator[Block]:
        """A slice of the table."""
        start, stop = self.n_rows * rank // world, self.n_rows * (rank + 1) // world
        return self._between(start, stop)

    def _between(self, first: int, last: int) -> Iterator[Block]:
        for start in range(first, last, self._block_rows):
            part = slice(start, min(start + self._block_rows, last))
            w = None if self.weights is None else self.weights[part]
            yield Block(as_tensor(self._x[part]), w, start)

    def shuffled(self, *, seed: int, epoch: int) -> Iterator[Block]:
        """Rows from all over the table; of a memory map, short runs of rows: whole pages."""
        return map(self.take, self.orders(seed=seed, epoch=epoch))

    def orders(self, *, seed: int, epoch: int) -> Iterator[Tensor]:
        run = _RUN if isinstance(self._x, np.memmap) else 1
        n_runs = -(-self.n_rows // run)
        order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n_runs))
        per_block = max(1, self._block_rows // (32 * run))
        for start in range(0, n_runs, per_block):
            runs = order[start : start + per_block]
            index = (runs[:, None] * run + torch.arange(run)).flatten()
            yield index[index < self.n_rows]

    def take(self, index: Tensor) -> Block:
        w = None if self.weights is None else self.weights[index.to(self.weights.device)]
        if isinstance(self._x, Tensor):
            return Block(self._x[index.to(self._x.device)], w, 0, index)
        return Block(as_tensor(self._x[index.numpy()]), w, 0, index)


def as_table(x: Any) -> Tensor | np.ndarray:
    """Numbers as an array or a tensor, without gradients; no copy where none is needed.

    Raises:
        InputError: no numbers; a sparse table, which holds them in another way; masked values,
            whose numbers are not the data's.
    """
    if isinstance(x, Tensor):
        return dense(x).detach()
    if hasattr(x, "toarray") and hasattr(x, "nnz"):  # of scipy
        raise InputError(f"rows are a sparse {type(x).__name__}: make them dense, x.toarray()")
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise InputError(
            f"rows hold {int(np.ma.getmaskarray(x).sum())} masked value(s): drop those rows, "
            "np.ma.compress_rows(x), or fill them, x.filled(...)"
        )
    if isinstance(x, np.ndarray):
        table = x
    else:
        try:
            table = np.asarray(x)
        except ValueError as error:
            raise InputError(f"rows are ragged or not numbers: {error}") from error
    if isinstance(x, (str, os.PathLike)):
        raise InputError(
            f"rows in memory are needed here, got the path {os.fspath(x)!r}: read it first, with "
            "torchgmm.data.read_table"
        )
    if table.dtype.kind not in "fiubc":
        raise InputError(
            f"rows must be numbers, got dtype {table.dtype} from {type(x).__name__}: choose the "
            "numeric columns and convert them"
        )
    return table


def dense(x: Tensor) -> Tensor:
    """The tensor; a sparse one is refused."""
    if x.layout != torch.strided:
        raise InputError(f"rows are a sparse tensor, {x.layout}: make them dense, x.to_dense()")
    return x


def _torch_dtype(x: Tensor | np.ndarray) -> torch.dtype:
    return x.dtype if isinstance(x, Tensor) else as_tensor(x[:1]).dtype


def as_tensor(part: Tensor | np.ndarray) -> Tensor:
    """Rows as torch holds them; no copy where none is needed."""
    if isinstance(part, Tensor):
        return part
    if part.dtype.kind == "f" and part.dtype.itemsize > 8:
        part = part.astype(np.float64)  # long double: torch has no such thing
    if part.dtype.kind == "u" and part.dtype.itemsize > 1:
        part = part.astype(np.int64)
    native = part.dtype.newbyteorder("=")
    if part.flags.writeable and part.dtype == native and min(part.strides, default=1) > 0:
        return torch.from_numpy(part)
    return torch.from_numpy(np.array(part, dtype=native))  # one block: read-only maps end here
