"""The interface of a source, and the door through which every kind of data comes in."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..errors import InputError

__all__ = ["Block", "Checked", "Source", "join", "sample_indices"]


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

    def take(self, index: Tensor) -> Block:
        """The rows at these places of this block, in this order."""
        kept = index if self.kept is None else self.kept[index.to(self.kept.device)]
        w = None if self.w is None else self.w[index.to(self.w.device)]
        return Block(self.x[index.to(self.x.device)], w, self.start, kept)


class Source(ABC):
    """Rows in blocks.

    Attributes:
        n_features: D.
        n_rows: how many rows there are, or None where only reading would tell.
        dtype: of the rows as they are stored.
        replayable: whether the rows can be read again; a one-pass stream cannot.
    """

    n_features: int
    n_rows: int | None
    dtype: torch.dtype
    replayable: bool = True

    @abstractmethod
    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        """All rows in their own order, in blocks whose size the source decides.

        Args:
            skip: leave out so many blocks at the start (to go on where a reader stopped).
        """

    def shuffled(self, *, seed: int, epoch: int) -> Iterator[Block]:
        """All rows, in blocks whose order depends on seed and epoch, as far as reading allows."""
        return self.blocks()

    def batches(self, rows: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Block]:
        """All rows in random order, `rows` at a time; the last batch may be smaller.

        Here: blocks in shuffled order go into a window of several batches, which is permuted.
        Equal arguments give equal batches.
        """
        mixed = _through_window(self.shuffled(seed=seed, epoch=epoch), rows, (seed, epoch))
        return itertools.islice(mixed, skip, None)

    def sample(self, size: int, generator: torch.Generator) -> Block:
        """At most `size` rows of positive weight, drawn without replacement.

        Here: one pass with a reservoir (Vitter 1985, algorithm R, a block at a time).
        """
        return _reservoir(self.blocks(), size, generator)


class Checked(Source):
    """A source as a fit reads it: on the device, in the computation's dtype, checked.

    Rows of weight 0 are left out. Finiteness is looked at until one whole pass was clean; the
    rows do not change after that.
    """

    def __init__(self, source: Source, dtype: torch.dtype, device: torch.device) -> None:
        self._source = source
        self._device = device
        self._clean = False
        self.n_features, self.n_rows = source.n_features, source.n_rows
        self.dtype, self.replayable = dtype, source.replayable

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        yield from self._all_usable(self._source.blocks(skip=skip))
        self._clean = self._clean or skip == 0

    def batches(self, rows: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Block]:
        yield from self._all_usable(self._source.batches(rows, seed=seed, epoch=epoch, skip=skip))
        self._clean = self._clean or skip == 0

    def sample(self, size: int, generator: torch.Generator) -> Block:
        return self._usable(self._source.sample(size, generator))

    def _all_usable(self, blocks: Iterator[Block]) -> Iterator[Block]:
        for block in blocks:
            usable = self._usable(block)
            if len(usable.x):
                yield usable

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


def _through_window(
    blocks: Iterator[Block], rows: int, key: tuple[int, int], n_batches: int = 16
) -> Iterator[Block]:
    """Batches of `rows` rows out of a permuted window of `n_batches` of them."""
    waiting: list[Block] = []
    count = 0
    for number, block in enumerate(_with_end(blocks)):
        if block is not None:
            waiting.append(block)
            count += len(block.x)
            if count < n_batches * rows:
                continue
        if not count:
            return
        window = join(waiting)
        order = torch.from_numpy(np.random.default_rng((*key, number)).permutation(count))
        # half of the window stays, so that rows of neighbouring windows meet
        leave = count if block is None else (count // 2) // rows * rows
        for start in range(0, leave, rows):
            yield window.take(order[start : min(start + rows, leave)])
        waiting = [window.take(order[leave:])]
        count -= leave


def _with_end(blocks: Iterator[Block]) -> Iterator[Block | None]:
    yield from blocks
    yield None


def join(blocks: Sequence[Block]) -> Block:
    """Several blocks as one; its row numbers are those of its parts."""
    if len(blocks) == 1:
        return blocks[0]
    x = torch.cat([block.x for block in blocks])
    numbers = torch.cat([block.numbers() for block in blocks])
    if all(block.w is None for block in blocks):
        return Block(x, None, 0, numbers)
    w = torch.cat(
        [
            b.x.new_ones(len(b.x), dtype=torch.float64) if b.w is None else b.w.double()
            for b in blocks
        ]
    )
    return Block(x, w, 0, numbers)


def _reservoir(blocks: Iterator[Block], size: int, generator: torch.Generator) -> Block:
    kept: Block | None = None
    seen = 0
    for block in blocks:
        if block.w is not None:
            block = block.take(block.w.nonzero().squeeze(-1))
        n = len(block.x)
        # row number t (from 1) enters with probability size / t, at a random place
        t = torch.arange(seen + 1, seen + n + 1, dtype=torch.float64)
        fresh = max(0, min(size - seen, n))
        place = (torch.rand(n, generator=generator, dtype=torch.float64) * t).long()
        place[:fresh] = torch.arange(seen, seen + fresh)
        enters = (place < size).nonzero().squeeze(-1)
        kept = _placed(kept, block.take(enters), place[enters])
        seen += n
    if kept is None or not len(kept.x):
        raise InputError("the source has no rows of positive weight")
    return kept


def _placed(kept: Block | None, block: Block, place: Tensor) -> Block:
    """`kept` with its rows at `place` replaced (or extended); of two for one place the later."""
    both = block if kept is None else join([kept, block])
    n_kept = 0 if kept is None else len(kept.x)
    size = max(n_kept, int(place.max()) + 1 if len(place) else 0)
    owner = np.arange(size)
    owner[place.numpy()] = n_kept + np.arange(len(place))
    return both.take(torch.from_numpy(owner))


def sample_indices(population: int, size: int, generator: torch.Generator) -> np.ndarray:
    """Sorted numbers below `population`, drawn without replacement in memory O(size)."""
    if size >= population:
        return np.arange(population)
    seed = int(torch.randint(2**62, (), generator=generator))
    return np.sort(np.random.default_rng(seed).choice(population, size, replace=False))
