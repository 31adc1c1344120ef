"""The interface of a source, and the door through which every kind of data comes in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import checks

__all__ = ["Block", "Checked", "Source", "sample_indices"]


@dataclass(frozen=True)
class Block:
    """Some consecutive rows with their weights."""

    x: Tensor  # (n, D)
    w: Tensor | None  # (n,), or None where every weight is 1
    start: int  # number of the first row in the whole data set
    kept: Tensor | None = None  # (n,) numbers of the rows, counted from start, if some left

    def numbers(self) -> Tensor:
        """The numbers of the rows in the whole data set, `(n,)`."""
        kept = torch.arange(len(self.x)) if self.kept is None else self.kept
        return kept + self.start

    def part(self, start: int, rows: int) -> Block:
        """Rows `start` to `start + rows` of this block."""
        some = slice(start, start + rows)
        w = None if self.w is None else self.w[some]
        if self.kept is None:
            return Block(self.x[some], w, self.start + start)
        return Block(self.x[some], w, self.start, self.kept[some])


class Source(ABC):
    """Rows in blocks, as often as asked: it may be read again from the start (re-iterable)."""

    n_features: int
    n_rows: int
    dtype: torch.dtype  # of the rows as they are stored
    total_weight: float

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """All rows, in order, in blocks whose size the source decides."""

    @abstractmethod
    def sample(self, size: int, generator: torch.Generator) -> Block:
        """At most `size` rows of positive weight, drawn without replacement, in order."""

    @abstractmethod
    def rows(self, index: Tensor) -> Tensor:
        """The rows with these numbers, `(len(index), D)`."""


class Checked(Source):
    """A source as a fit reads it: on the device, in the computation's dtype, checked.

    Rows of weight 0 are left out.

    Finiteness is looked at until one whole pass was clean; the rows do not change after that.
    """

    def __init__(self, source: Source, dtype: torch.dtype, device: torch.device) -> None:
        self._source = source
        self._device = device
        self._clean = False
        self.n_features, self.n_rows = source.n_features, source.n_rows
        self.dtype, self.total_weight = dtype, source.total_weight

    def blocks(self) -> Iterator[Block]:
        for block in self._source.blocks():
            usable = self._usable(block)
            if len(usable.x):
                yield usable
        self._clean = True

    def sample(self, size: int, generator: torch.Generator) -> Block:
        return self._usable(self._source.sample(size, generator))

    def rows(self, index: Tensor) -> Tensor:
        return self._source.rows(index).to(device=self._device, dtype=self.dtype)

    def _usable(self, block: Block) -> Block:
        x, w, kept = block.x, block.w, block.kept
        if w is not None and not bool(w.all()):
            if not self._clean:  # row numbers in messages stay those of the data
                checks.check_finite(
                    torch.where(w[:, None] > 0, x, 0), self.dtype, offset=block.start
                )
            kept = w.nonzero().squeeze(-1)
            x, w = x[kept.to(x.device)], w[kept]
        elif not self._clean:
            checks.check_finite(x, self.dtype, offset=block.start)
        x = x.to(device=self._device, dtype=self.dtype)
        w = None if w is None else w.to(device=self._device, dtype=self.dtype)
        return Block(x, w, block.start, kept)


def sample_indices(population: int, size: int, generator: torch.Generator) -> np.ndarray:
    """Sorted numbers below `population`, drawn without replacement in memory O(size)."""
    if size >= population:
        return np.arange(population)
    seed = int(torch.randint(2**62, (), generator=generator))
    return np.sort(np.random.default_rng(seed).choice(population, size, replace=False))
