"""Part of a source: the rows in some folds, chosen by their number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..data import Block, Source, Wrapped, scrambled

__all__ = ["Part", "fold_of"]


class Part(Wrapped):
    """The rows of a source whose fold is, or is not, the one given.

    The fold of a row is drawn from its number, so a source is cut without a list of its rows, and
    every pass cuts it the same way.

    Args:
        source: all rows; it must be readable again and again.
        fold: number of one fold.
        folds: how many there are, of about equal size.
        inside: whether the rows of that fold are meant, or all others.
        seed: of the cut.
    """

    def __init__(self, source: Source, fold: int, folds: int, *, inside: bool, seed: int) -> None:
        super().__init__(source)
        self.n_rows = None
        self._fold, self._folds, self._inside, self._seed = fold, folds, inside, seed

    def share(self, rank: int, world: int) -> Iterator[Block]:
        yield from self._some_of(self._source.share(rank, world))

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        yield from self._some_of(self._source.blocks(skip=skip))

    def shuffled(self, *, seed: int, epoch: int) -> Iterator[Block]:
        yield from self._some_of(self._source.shuffled(seed=seed, epoch=epoch))

    def _some_of(self, blocks: Iterator[Block]) -> Iterator[Block]:
        for block in blocks:
            mine = fold_of(block.numbers().numpy(), self._folds, self._seed) == self._fold
            index = torch.from_numpy(np.flatnonzero(mine == self._inside))
            if len(index):
                yield block.take(index)


def fold_of(numbers: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of every row number: a hash, then mod."""
    return np.asarray(scrambled(numbers, seed) % np.uint64(folds))
