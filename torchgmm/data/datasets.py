"""Rows from data sets that fetch by number: torch's `Dataset`, Hugging Face's `datasets`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from .. import checks
from ..errors import InputError
from .base import Indexed
from .block import Block
from .loaders import Key, Unpack, loading
from .passes import parts

__all__ = ["DatasetSource"]

_BLOCK_BYTES = 32 * 2**20
_BLOCK_ROWS = 4096
_Fetch = Callable[[Sequence[int]], Any]


class DatasetSource(Indexed):
    """Rows of a data set with `len()` and numbers: drawn and shuffled row by row.

    Args:
        data: a torch `Dataset` whose items are rows, `(row, ...)` or dicts; or a data set of
            Hugging Face.
        weights: place or key of a row's weight, or one number per row.
        key: place or key of the rows, as in `Unpack`.
        rows_of_any_shape: rows may have several axes (images), for an encoder.

    Raises:
        InputError: items that are no rows; an item that cannot be fetched.

    Example:
        >>> import torch
        >>> data = torch.utils.data.TensorDataset(torch.zeros(5, 2), torch.arange(5))
        >>> source = DatasetSource(data)
        >>> source.n_rows, source.n_features
        (5, 2)
    """

    reads = True

    def __init__(
        self,
        data: Any,
        weights: Any = None,
        *,
        key: Key = None,
        rows_of_any_shape: bool = False,
    ) -> None:
        self._what = type(data).__name__
        if not hasattr(data, "__len__"):
            raise InputError(f"{self._what} has no len(): make it an IterableDataset")
        self.n_rows = len(data)
        if not self.n_rows:
            raise InputError(f"{self._what} is empty")
        self.weighted = isinstance(weights, (str, int))
        self._unpack = Unpack(key, weights if self.weighted else None)
        if weights is not None and not self.weighted:
            self.weights = checks.check_weights(weights, self.n_rows)
        self._fetch = _fetcher(data)
        self.shape: tuple[int, ...] | None = None
        x = self._rows([0], "row 0")[0]
        if not rows_of_any_shape:
            checks.check_rows((self.n_rows, *x.shape[1:]), None)
        self.shape = tuple(x.shape[1:])
        self.n_features, self.dtype = math.prod(self.shape), x.dtype
        self._block_rows = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // max(1, x.nbytes)))

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        return self._between(skip * self._block_rows, self.n_rows)

    def share(self, rank: int, world: int) -> Iterator[Block]:
        """A slice of the data set."""
        start, stop = self.n_rows * rank // world, self.n_rows * (rank + 1) // world
        return self._between(start, stop)

    def _between(self, first: int, last: int) -> Iterator[Block]:
        for start in range(first, last, self._block_rows):
            stop = min(start + self._block_rows, last)
            x, w = self._rows(range(start, stop), f"rows {start}..{stop - 1}")
            yield Block(x, w if self.weights is None else self.weights[start:stop], start)

    def shuffled(self, *, seed: int, epoch: int) -> Iterator[Block]:
        return self.batches(self._block_rows, seed=seed, epoch=epoch)

    def batches(self, rows: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Block]:
        order = np.random.default_rng((seed, epoch)).permutation(self.n_rows)
        for start in range(skip * rows, self.n_rows, rows):
            yield self.take(torch.from_numpy(order[start : start + rows]))

    def orders(self, *, seed: int, epoch: int) -> Iterator[Tensor]:
        order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(self.n_rows))
        return iter(torch.split(order, self._block_rows))

    def share_of_batches(
        self, rows: int, rank: int, world: int, *, seed: int, epoch: int, skip: int = 0
    ) -> Iterator[Block]:
        if self.weighted:  # whether a batch has a row that counts only its rows tell
            return parts(self.batches(rows, seed=seed, epoch=epoch, skip=skip), rank, world)
        return self._parts_of_batches(rows, rank, world, seed, epoch, skip)

    def _parts_of_batches(
        self, rows: int, rank: int, world: int, seed: int, epoch: int, skip: int
    ) -> Iterator[Block]:
        order = np.random.default_rng((seed, epoch)).permutation(self.n_rows)
        for start in range(skip * rows, self.n_rows, rows):
            batch = torch.from_numpy(order[start : start + rows])
            present = len(batch)
            if self.weights is not None:
                present = int((self.weights[batch] > 0).sum())
            own = batch[len(batch) * rank // world : len(batch) * (rank + 1) // world]
            block = self.take(own) if len(own) else self._nothing()
            yield replace(block, whole=present)

    def _nothing(self) -> Block:
        return Block(torch.empty(0, self.n_features, dtype=self.dtype), None, 0)

    def take(self, index: Tensor) -> Block:
        numbers = index.tolist()
        said = f"rows {', '.join(map(str, numbers[:8]))}{', ...' * (len(numbers) > 8)}"
        x, w = self._rows(numbers, said)
        return Block(x, w if self.weights is None else self.weights[index], 0, index)

    def _rows(self, numbers: Sequence[int], said: str) -> tuple[Tensor, Tensor | None]:
        with loading(f"{said} of {self._what} could not be loaded"):
            x, w = self._unpack(self._fetch(numbers))
            if len(x) != len(numbers):
                raise InputError(f"{len(x)} rows came for {len(numbers)} items")
            if self.shape is not None and tuple(x.shape[1:]) != self.shape:
                raise InputError(f"shape {tuple(x.shape[1:])}, but row 0 has {self.shape}")
            return x, None if w is None else checks.check_weights(w, len(x), part=True)


def _fetcher(data: Any) -> _Fetch:
    """A function from numbers to a batch."""
    if hasattr(data, "with_format"):
        table = data.with_format("torch")
        return lambda numbers: table[
            slice(numbers.start, numbers.stop) if isinstance(numbers, range) else list(numbers)
        ]
    if hasattr(data, "__getitems__"):
        return lambda numbers: default_collate(data.__getitems__(list(numbers)))
    return lambda numbers: default_collate([data[i] for i in numbers])
