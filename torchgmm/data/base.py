"""The interface of a source, and what holds of every one that says nothing else."""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..collective import ALONE, Group
from .block import Block
from .passes import in_batches, in_order, parts, reservoir, sample_indices, through_window

__all__ = ["Indexed", "Source"]

# Rows that are mixed with each other before batches are cut: many batches, yet bounded memory.
_WINDOW_ROWS = 65_536
_WINDOW_BYTES = 32 * 2**20
_LOOKED_AT = 64  # rows by which processes find out whether they were given the same


class Source(ABC):
    """Rows in blocks.

    Attributes:
        n_features: D.
        n_rows: how many rows there are, or None where only reading would tell.
        dtype: of the rows as they are stored.
        replayable: whether the rows can be read again; a one-pass stream cannot.
        stable: whether every pass gives them in the same order; a loader that shuffles does not.
        reads: whether blocks come from a disk or a loader, so that reading ahead pays.
        decodes: whether reading them keeps all cores busy, so that it only pays where some are
            idle.
        on_host: whether they come in the memory of the CPU, so that a GPU waits for the way.
        names: of the features, one for each; empty where they have none.
        own: whether only this process has these rows, and others of the job have theirs.
        numbered: whether rows that are its own have the numbers that they have among all.
        group: the processes that read parts of it at this moment.
    """

    n_features: int
    n_rows: int | None
    dtype: torch.dtype
    replayable: bool = True
    stable: bool = True
    reads: bool = False
    decodes: bool = False
    on_host: bool = True
    names: tuple[str, ...] = ()
    own: bool = False
    numbered: bool = False
    group: Group = ALONE

    @property
    def row_bytes(self) -> int:
        """Size of a row as it is stored."""
        return max(1, self.n_features * self.dtype.itemsize)

    def first(self) -> Block:
        """The first block. It is not lost: `blocks` gives it again."""
        return next(self.blocks())

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

        Here: blocks in shuffled order go into a window of many rows, which is permuted. Equal
        arguments give equal batches.
        """
        window = self.window_rows(rows)
        mixed = through_window(self.shuffled(seed=seed, epoch=epoch), rows, window, (seed, epoch))
        return itertools.islice(mixed, skip, None)

    def window_rows(self, rows: int) -> int:
        """How many rows are mixed with each other before batches of `rows` are cut."""
        return max(16 * rows, min(_WINDOW_ROWS, _WINDOW_BYTES // self.row_bytes))

    def ordered_batches(self, rows: int, *, skip: int = 0) -> Iterator[Block]:
        """All rows in their own order, `rows` at a time; the last batch may be smaller."""
        return itertools.islice(in_order(self.blocks(), rows), skip, None)

    def share(self, rank: int, world: int) -> Iterator[Block]:
        """The rows of one of `world` processes: all of these together have each row once.

        Here: all rows are read, and a part of each block is kept.
        """
        for block in parts(self.blocks(), rank, world):
            yield replace(block, whole=None)

    def share_of_batches(
        self, rows: int, rank: int, world: int, *, seed: int, epoch: int, skip: int = 0
    ) -> Iterator[Block]:
        """The rows that one of `world` processes has of each of `batches`; maybe none of some.

        Here: all rows are read, and a part of each batch is kept.
        """
        return parts(self.batches(rows, seed=seed, epoch=epoch, skip=skip), rank, world)

    def fingerprint(self) -> str:
        """What tells these rows from others, by the first of them."""
        some = self.first().part(0, _LOOKED_AT)
        digest = hashlib.sha256(some.x.detach().cpu().double().numpy().tobytes())
        if some.w is not None:
            digest.update(some.w.detach().cpu().double().numpy().tobytes())
        return digest.hexdigest()[:16]

    def mine(self, block: Block) -> Block:
        """Of rows that all processes have, those that are this one's to count."""
        start, stop = self.group.share(len(block.x))
        return block if self.group.size == 1 else block.part(start, stop - start)

    def sample(self, size: int, generator: torch.Generator) -> Block:
        """At most `size` rows of positive weight, drawn without replacement.

        Here: one pass with a reservoir (Vitter 1985, algorithm R, a block at a time).
        """
        return reservoir(self.blocks(), size, generator)


class Indexed(Source):
    """A source whose rows can be fetched by number.

    Attributes:
        weights: `(N,)` float64 where they are in memory; None otherwise.
        weighted: whether weights lie beside the rows, so that only reading tells them.
    """

    n_rows: int
    weights: Tensor | None = None
    weighted: bool = False

    @abstractmethod
    def take(self, index: Tensor) -> Block:
        """The rows with these numbers `(n,)`, in this order."""

    def orders(self, *, seed: int, epoch: int) -> Iterator[Tensor] | None:
        """The numbers of the rows in each block of `shuffled`; None where only reading tells."""
        return None

    def share_of_batches(
        self, rows: int, rank: int, world: int, *, seed: int, epoch: int, skip: int = 0
    ) -> Iterator[Block]:
        """As every source, but only the rows that are kept are read, where that can be."""
        orders = None if self.weighted else self.orders(seed=seed, epoch=epoch)
        if orders is None:
            yield from super().share_of_batches(
                rows, rank, world, seed=seed, epoch=epoch, skip=skip
            )
            return
        numbers = in_batches(orders, self.weights, rows, self.window_rows(rows), (seed, epoch))
        for part in parts(itertools.islice(numbers, skip, None), rank, world):
            yield replace(self.take(part.x.squeeze(-1)), whole=part.whole)

    def sample(self, size: int, generator: torch.Generator) -> Block:
        if self.weighted:
            return super().sample(size, generator)
        if self.weights is None:
            return self.take(torch.from_numpy(sample_indices(self.n_rows, size, generator)))
        present = self.weights.nonzero().squeeze(-1).cpu()
        return self.take(present[sample_indices(len(present), size, generator)])
