"""The interface of a source, and what sources share: mixing rows, and drawing some of them."""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..collective import ALONE, Group
from ..errors import InputError
from ..exact import exact, exact_device

__all__ = [
    "Block",
    "Indexed",
    "Source",
    "in_batches",
    "in_order",
    "join",
    "parts",
    "sample_indices",
    "through_window",
]

# Rows that are mixed with each other before batches are cut: many batches, yet bounded memory.
_WINDOW_ROWS = 65_536
_WINDOW_BYTES = 32 * 2**20
_LOOKED_AT = 64  # rows by which processes find out whether they were given the same


@dataclass(frozen=True)
class Block:
    """Some consecutive rows with their weights; or rows of several groups side by side."""

    x: Tensor  # (n, D), or (b, n, D) of b groups; row by row or column by column: as it was read
    w: Tensor | None  # (n,) or (b, n), or None where every weight is 1
    start: int  # number of the first row in the whole data set
    kept: Tensor | None = None  # (n,) numbers of the rows, counted from start; on the CPU
    number: int = 0  # of the block in its pass, where a reader counts them
    # rows of positive weight in the batch of which other processes have the rest; None: no others
    whole: int | None = None
    groups: Tensor | None = None  # (b,) whose rows x holds; None: of no group, or of all
    filled: int | None = None  # how many of the b * n rows there are, where some only fill up

    @property
    def n_rows(self) -> int:
        """How many rows it holds."""
        return self.x.shape[:-1].numel() if self.filled is None else self.filled

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
        return Block(self.x[index.to(self.x.device)], w, self.start, kept.cpu())


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
        return _reservoir(self.blocks(), size, generator)


def parts(blocks: Iterator[Block], rank: int, world: int) -> Iterator[Block]:
    """Of every block the rows of one of `world` processes."""
    for block in blocks:
        n = len(block.x)
        present = n if block.w is None else int((block.w > 0).sum())
        start = n * rank // world
        yield replace(block.part(start, n * (rank + 1) // world - start), whole=present)


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


def in_batches(
    orders: Iterator[Tensor],
    weights: Tensor | None,
    rows: int,
    window_rows: int,
    key: tuple[int, int],
) -> Iterator[Block]:
    """`through_window` of row numbers `(n, 1)`, as if they were the rows."""

    def numbers() -> Iterator[Block]:
        for index in orders:
            w = None if weights is None else weights[index.to(weights.device)]
            yield Block(index.unsqueeze(-1), w, 0)

    return through_window(numbers(), rows, window_rows, key)


def through_window(
    blocks: Iterator[Block], rows: int, window_rows: int, key: tuple[int, int]
) -> Iterator[Block]:
    """Batches of `rows` rows out of a permuted window of at least `window_rows`."""
    waiting: list[Block] = []
    count = 0
    for number, block in enumerate(_with_end(blocks)):
        if block is not None:
            waiting.append(block)
            count += len(block.x)
            if count < window_rows:
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


def in_order(blocks: Iterator[Block], rows: int) -> Iterator[Block]:
    """The same rows in the same order, `rows` at a time; the last batch may be smaller."""
    waiting: list[Block] = []
    count = 0
    for block in _with_end(blocks):
        if block is not None:
            waiting.append(block)
            count += len(block.x)
            if count < rows:
                continue
        if not count:
            return
        whole = join(waiting)
        leave = count if block is None else count // rows * rows
        for start in range(0, leave, rows):
            yield whole.part(start, min(rows, leave - start))
        waiting = [whole.part(leave, count - leave)] if leave < count else []
        count -= leave


def _with_end(blocks: Iterator[Block]) -> Iterator[Block | None]:
    yield from blocks
    yield None


def join(blocks: Sequence[Block]) -> Block:
    """Several blocks as one; its row numbers are those of its parts."""
    if len(blocks) == 1:
        return blocks[0]
    x = torch.cat([block.x for block in blocks])
    w = None
    if any(block.w is not None for block in blocks):
        w = torch.cat([_weights(block) for block in blocks])
    ends = [block.start + len(block.x) for block in blocks]
    in_order = all(end == after.start for end, after in zip(ends, blocks[1:], strict=False))
    if in_order and all(block.kept is None for block in blocks):
        return Block(x, w, blocks[0].start)
    return Block(x, w, 0, torch.cat([block.numbers() for block in blocks]))


def _weights(block: Block) -> Tensor:
    if block.w is None:
        place = exact_device(block.x.device)
        return torch.ones(len(block.x), dtype=torch.float64, device=place)
    return exact(block.w)


def _reservoir(blocks: Iterator[Block], size: int, generator: torch.Generator) -> Block:
    kept: Block | None = None
    seen = 0
    for block in blocks:
        if block.w is not None:
            block = block.take(block.w.nonzero().squeeze(-1))
        n = len(block.x)
        fresh = max(0, min(size - seen, n))
        # row number t (from 1) enters with probability size / t, at a random place
        t = torch.arange(seen + fresh + 1, seen + n + 1, dtype=torch.float64)
        drawn = (torch.rand(n - fresh, generator=generator, dtype=torch.float64) * t).long()
        place = torch.cat([torch.arange(seen, seen + fresh), drawn])
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
