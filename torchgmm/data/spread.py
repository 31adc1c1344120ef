"""Rows that many processes share: what of them is this process's."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..collective import Group
from ..errors import InputError
from .base import Source
from .block import Block
from .door import as_source
from .passes import in_order, parts
from .wrapped import Wrapped

__all__ = ["OwnRows", "Spread", "spread"]


class OwnRows(Wrapped):
    """Rows that only this process has; the other processes of the job bring theirs.

    Without it (and without torch's `DistributedSampler`, which says the same) every process must
    be given the same data, which are then shared out. The data set is that of all processes
    together, in their order. A process may have no rows: `OwnRows(None)`.

    Methods that work on random batches take a share of each from every process, so their batches,
    unlike those of shared data, depend on how many processes there are.

    Args:
        data: whatever `as_source` takes; None for no rows.
        weights: as in `as_source`.
        **options: more arguments of `as_source`.

    Example:
        >>> import torch, torchgmm as tg
        >>> from torchgmm.data import OwnRows
        >>> result = tg.GaussianMixture(1).fit(OwnRows(torch.randn(100, 3)), generator=0)
    """

    def __init__(self, data: Any, weights: Any = None, **options: Any) -> None:
        none = data is None or (hasattr(data, "__len__") and len(data) == 0)
        super().__init__(_NoRows() if none else as_source(data, weights, **options))
        self.own = True

    def first(self) -> Block:
        return self._source.first()

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        return self._source.blocks(skip=skip)

    def batches(self, rows: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Block]:
        return self._source.batches(rows, seed=seed, epoch=epoch, skip=skip)

    def ordered_batches(self, rows: int, *, skip: int = 0) -> Iterator[Block]:
        return self._source.ordered_batches(rows, skip=skip)

    def sample(self, size: int, generator: torch.Generator) -> Block:
        return self._source.sample(size, generator)


class _NoRows(Source):
    """What a process has that brings nothing."""

    n_features = n_rows = 0
    dtype = torch.float32

    def first(self) -> Block:
        raise InputError("this process has no rows: OwnRows(None) is for one of several")

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        return iter(())


def spread(source: Source, group: Group) -> Source:
    """The source as one process of a group reads it; as it is, where there is one process.

    Raises:
        InputError: the processes were given sources that do not go together.
    """
    if group.size == 1:
        return source
    group.agree(**{"whose rows they are given": "its own" if source.own else "those of all"})
    return Joined(source, group) if source.own else Shared(source, group)


class Spread(Wrapped):
    """A source of which every process reads a part."""

    def __init__(self, source: Source, group: Group) -> None:
        super().__init__(source)
        self.group = group

    @abstractmethod
    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        """The rows of this process."""


class Shared(Spread):
    """Rows that all processes were given: each reads a share.

    A batch is this process's share of the batch that a single process would have had; a sample is
    the whole sample, the same in all. So are the answers.
    """

    def __init__(self, source: Source, group: Group) -> None:
        super().__init__(source, group)
        if not source.stable:
            raise InputError(
                f"each of the {group.size} processes would shuffle this loader in its own way: "
                "give it a DistributedSampler, or shuffle=False (batches are drawn at random "
                "anyway), or the data set itself"
            )
        shape = f"{source.n_rows or 'unknown'} x {source.n_features} {source.dtype}"
        group.agree(**{"the shape of the rows": shape, "the first rows": source.fingerprint()})

    def first(self) -> Block:
        return self._source.first()

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        own = self._source.share(self.group.rank, self.group.size)
        return itertools.islice(own, skip, None)

    def batches(self, rows: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Block]:
        return self._source.share_of_batches(
            rows, self.group.rank, self.group.size, seed=seed, epoch=epoch, skip=skip
        )

    def ordered_batches(self, rows: int, *, skip: int = 0) -> Iterator[Block]:
        batches = in_order(_present(self._source.blocks()), rows)
        own = parts(batches, self.group.rank, self.group.size)
        return itertools.islice(own, skip, None)

    def sample(self, size: int, generator: torch.Generator) -> Block:
        return self._source.sample(size, generator)


class Joined(Spread):
    """Rows of which every process brings its own; some may bring none.

    A batch has from every process as many rows as its share of all rows says.
    """

    row_bytes = Source.row_bytes  # its own source may not know how wide rows are

    def __init__(self, source: Source, group: Group) -> None:
        super().__init__(source, group)
        said = group.texts(f"{source.n_features} {str(source.dtype)[6:]} {source.n_rows}")
        shapes = [text.rpartition(" ")[0] for text in said]
        wanted = next((shape for shape in shapes if shape[:2] != "0 "), None)
        if wanted is None:
            raise InputError("no process has any rows")
        for rank, shape in enumerate(shapes):
            if shape != wanted and shape[:2] != "0 ":
                raise InputError(
                    f"the rows of process {rank} are {shape} (features, dtype), those of others "
                    f"{wanted}: they must be alike"
                )
        width, dtype = wanted.split()
        self.n_features, self.dtype = int(width), getattr(torch, dtype)
        counts = [text.rpartition(" ")[2] for text in said]
        self._counts = None if "None" in counts else [int(count) for count in counts]
        self.n_rows = None if self._counts is None else sum(self._counts)
        replayable, stable = group.total(float(source.replayable), float(source.stable))
        self.replayable, self.stable = replayable == group.size, stable == group.size

    def first(self) -> Block:
        if self._source.n_features:
            return self._source.first()
        return Block(torch.zeros(1, self.n_features, dtype=self.dtype), None, 0)

    def blocks(self, *, skip: int = 0) -> Iterator[Block]:
        return self._numbered(self._source.blocks(skip=skip))

    def batches(self, rows: int, *, seed: int, epoch: int, skip: int = 0) -> Iterator[Block]:
        own = self._source.batches(self._own_rows(rows), seed=seed, epoch=epoch, skip=skip)
        return self._numbered(own)

    def ordered_batches(self, rows: int, *, skip: int = 0) -> Iterator[Block]:
        return self._numbered(self._source.ordered_batches(self._own_rows(rows), skip=skip))

    def sample(self, size: int, generator: torch.Generator) -> Block:
        """Rows of all processes, the same in each of them."""
        seed = 0
        if self.n_rows is None or size < self.n_rows:  # else nothing is drawn
            seed = int(torch.randint(2**62, (), generator=generator))
        count = self._drawn(size, seed)
        x = torch.empty(0, self.n_features, dtype=self.dtype)
        w = torch.empty(0, dtype=torch.float64)
        weighted = False
        if count:
            block = self._source.sample(count, torch.Generator().manual_seed(seed))
            x, weighted = block.x, block.w is not None
            w = torch.ones(len(x), dtype=torch.float64) if block.w is None else block.w.double()
        rows = self.group.stacked(x).to(self.dtype)
        weights = self.group.stacked(w)
        return Block(rows, weights if self.group.total(float(weighted))[0] else None, 0)

    def _own_rows(self, rows: int) -> int:
        """Rows of a batch that this process brings."""
        if self._counts is None or not self.n_rows:
            return -(-rows // self.group.size)
        return max(1, round(rows * self._counts[self.group.rank] / self.n_rows))

    def _drawn(self, size: int, seed: int) -> int:
        """Rows of a sample that this process brings, drawn as if from all rows."""
        if self._counts is None or not self.n_rows:
            return -(-size // self.group.size)
        own = self._counts[self.group.rank]
        if size >= self.n_rows:
            return own
        odds = np.array(self._counts) / self.n_rows
        return min(own, int(np.random.default_rng(seed).multinomial(size, odds)[self.group.rank]))

    def _numbered(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """With the numbers that the rows have among those of all processes."""
        before = 0
        if self._counts is not None and not self._source.numbered:
            before = sum(self._counts[: self.group.rank])
        for block in blocks:
            yield replace(block, start=block.start + before)


def _present(blocks: Iterator[Block]) -> Iterator[Block]:
    """Without rows of weight 0, so that batches are cut as if these were not there."""
    for block in blocks:
        yield block if block.w is None else block.take(block.w.nonzero().squeeze(-1))
